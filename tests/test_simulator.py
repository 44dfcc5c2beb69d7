"""The simulator refuses what the vendor refuses, breaks when asked to, and logs the truth."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import http.client
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import urlencode

import pytest
from im_attr_audit.apps import AppKey
from im_attr_audit.declared.parse import parse

from simulator.control import Simulator
from simulator.records import NewApp
from simulator.signature import refusal_of
from simulator.story import APPS, DECLARED_NAMES, REGIONS, STEPS
from simulator.world import SimulatorError, World
from tests.declared_oracle import violations

ROOT = Path(__file__).resolve().parents[1]
APP = 20000001
ADMIN = "administrator"
NAMES = {0: "sex", 1: "city", 2: "会员等级"}
OLD, NEW = "/v4/all_member_push/im_get_attr_name", "/v4/timpush/get_attr_name"


def user_sig(
    app_id: int,
    key: str,
    identifier: str = ADMIN,
    *,
    at: float | None = None,
    ttl: int = 86400,
    userbuf: str | None = None,
) -> str:
    """The vendor's TLSSigAPIv2, once more from its description."""
    now = int(time() if at is None else at)
    text = f"TLS.identifier:{identifier}\nTLS.sdkappid:{app_id}\n"
    text += f"TLS.time:{now}\nTLS.expire:{ttl}\n"
    content: dict[str, Any] = {
        "TLS.ver": "2.0",
        "TLS.identifier": identifier,
        "TLS.sdkappid": app_id,
        "TLS.expire": ttl,
        "TLS.time": now,
    }
    if userbuf is not None:
        text += f"TLS.userbuf:{userbuf}\n"
        content["TLS.userbuf"] = userbuf
    digest = hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()
    content["TLS.sig"] = base64.b64encode(digest).decode()
    packed = base64.b64encode(zlib.compress(json.dumps(content).encode())).decode()
    return packed.replace("+", "*").replace("/", "-").replace("=", "_")


class Client:
    """A caller who does everything right, unless asked otherwise."""

    def __init__(self, simulator: Simulator, region: str = "china") -> None:
        self.simulator, self.region = simulator, region
        self.connection = http.client.HTTPSConnection(
            "127.0.0.1",
            simulator.ports[region],
            timeout=10,
            context=ssl.create_default_context(cafile=simulator.ca_bundle),
        )

    def response(
        self,
        *,
        app: int = APP,
        signed: dict[str, Any] | None = None,
        method: str = "POST",
        path: str = OLD,
        body: bytes = b"{}",
        **query: str | None,
    ) -> http.client.HTTPResponse:
        """Send the call; None as a parameter leaves it out."""
        sig = {"app_id": app, "key": "key", **(signed or {})}
        parameters: dict[str, str | None] = {
            "usersig": user_sig(**sig),
            "identifier": ADMIN,
            "sdkappid": str(app),
            "random": "4294967295",
            "contenttype": "json",
            **query,
        }
        given = {name: value for name, value in parameters.items() if value is not None}
        self.connection.request(method, f"{path}?{urlencode(given)}", body)
        return self.connection.getresponse()

    def call(self, **different: Any) -> dict[str, Any]:
        """The answer's JSON."""
        response = self.response(**different)
        assert response.status == 200
        answer = json.loads(response.read())
        assert isinstance(answer, dict)
        return answer

    def code(self, **different: Any) -> int:
        """The answer's ErrorCode, in an answer that is well-formed for it."""
        answer = self.call(**different)
        code = answer["ErrorCode"]
        assert answer["ActionStatus"] == ("FAIL" if code else "OK")
        assert isinstance(answer["ErrorInfo"], str)
        assert bool(answer["ErrorInfo"]) == bool(code)
        return int(code)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    folder = tmp_path_factory.mktemp("simulator")
    with Simulator.start(folder, regions=["china", "frankfurt"], lasting=False) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Simulator) -> Simulator:
    running.reset()
    running.add_app("china", APP, NAMES, key="key")
    return running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[Client]:
    client = Client(simulator)
    yield client
    client.connection.close()


@pytest.fixture
def beside() -> Iterator[Callable[[Callable[[], Any]], Future[Any]]]:
    """Runs a call beside the test."""
    with ThreadPoolExecutor() as pool:
        yield pool.submit


def test_a_right_call_is_answered_with_the_names(client: Client) -> None:
    assert client.call() == {
        "ActionStatus": "OK",
        "ErrorInfo": "",
        "ErrorCode": 0,
        "AttrNames": {"0": "sex", "1": "city", "2": "会员等级"},
    }


@pytest.mark.parametrize(
    ("different", "code"),
    [
        pytest.param({"method": "GET"}, 60002, id="GET"),
        pytest.param({"method": "PUT"}, 60002, id="PUT"),
        pytest.param({"path": "/v4/all_member_push/im_get_attr"}, 60009, id="wrong-path"),
        pytest.param({"path": OLD + "/"}, 60009, id="path-with-slash"),
        pytest.param({"body": b""}, 60003, id="no-body"),
        pytest.param({"body": b"{"}, 60003, id="body-cut-off"),
        pytest.param({"body": b"[" * 5000}, 60003, id="body-too-deep"),
        pytest.param({"body": b"[]"}, 90001, id="body-an-array"),
        pytest.param({"body": b"null"}, 90001, id="body-null"),
        pytest.param({"sdkappid": None}, 60012, id="no-sdkappid"),
        pytest.param({"sdkappid": "x1"}, 60025, id="sdkappid-no-number"),
        pytest.param({"usersig": None}, 60025, id="no-usersig"),
        pytest.param({"identifier": None}, 60025, id="no-identifier"),
        pytest.param({"random": None}, 60025, id="no-random"),
        pytest.param({"random": "4294967296"}, 60025, id="random-of-33-bits"),
        pytest.param({"random": "-1"}, 60025, id="random-negative"),
        pytest.param({"contenttype": None}, 60025, id="no-contenttype"),
        pytest.param({"contenttype": "JSON"}, 60025, id="contenttype-in-capitals"),
        pytest.param({"app": 20000099}, 70020, id="unknown-app"),
        pytest.param({"usersig": ""}, 70002, id="usersig-empty"),
        pytest.param({"usersig": "xxx"}, 70003, id="usersig-no-base64"),
        pytest.param({"usersig": "eJyr/gcA"}, 70003, id="usersig-in-ordinary-base64"),
        pytest.param({"signed": {"at": time() - 90000}}, 70001, id="usersig-expired"),
        pytest.param({"signed": {"key": "another"}}, 70009, id="wrong-key"),
        pytest.param({"signed": {"identifier": "bob"}}, 70013, id="signed-for-another-account"),
        pytest.param({"signed": {"app_id": 5}}, 70014, id="signed-for-another-app"),
        pytest.param(
            {"identifier": "bob", "signed": {"identifier": "bob"}}, 60010, id="not-an-administrator"
        ),
    ],
)
def test_it_refuses_what_the_vendor_would_refuse(
    client: Client, different: dict[str, Any], code: int
) -> None:
    assert client.code(**different) == code
    assert client.code() == 0, "the connection serves the next call"
    assert [entry.result for entry in client.simulator.log()] == ["code", "names"]


def test_a_usersig_with_a_userbuf_is_verified_with_it(client: Client) -> None:
    assert client.code(signed={"userbuf": "AAEC"}) == 0


@pytest.mark.parametrize(
    ("identifier", "ttl", "sig"),
    [
        ("xiaojun", 15552000, "LvA7d/Iw7gSsnskvVzBDPOCCDbuNCw4GHwTC0bip+B4="),
        ("administrator", 86400, "yLAe+w7WUeUuqbV9h/TX78u21oTGi+i9Zp1u3PpnY60="),
    ],
)
def test_signatures_by_the_vendors_own_libraries_are_accepted(
    identifier: str, ttl: int, sig: str
) -> None:
    # The vendor's published demo key, as text; times as in the public vectors.
    key = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"
    content = {
        "TLS.sig": sig,
        "TLS.time": 1700000000,
        "TLS.expire": ttl,
        "TLS.ver": "2.0",
        "TLS.identifier": identifier,
        "TLS.sdkappid": 1400000000,
    }
    for level in (0, 9):  # Go's library may not compress, and ends the JSON with a newline
        packed = zlib.compress(json.dumps(content).encode() + b"\n", level)
        usersig = base64.b64encode(packed).decode().translate(str.maketrans("+/=", "*-_"))

        def code(now: float, usersig: str = usersig) -> int | None:
            refusal = refusal_of(
                usersig, app_id=1400000000, identifier=identifier, keys=[key], now=now
            )
            return refusal.code if refusal else None

        assert code(1700000000 + ttl) is None
        assert code(1700000001 + ttl) == 70001


def test_an_app_is_known_in_its_own_region_only(simulator: Simulator) -> None:
    assert Client(simulator, "frankfurt").code() == 60026


def test_more_than_the_allowed_calls_in_a_second_are_refused(client: Client) -> None:
    client.simulator.configure("china", APP, rate_limit=3)
    assert [client.code() for _ in range(4)] == [0, 0, 0, 60007]


def test_the_hundred_and_first_call_in_a_second_is_refused_by_default() -> None:
    at = 1000.0
    world = World(monotonic=lambda: at)
    world.add_app("china", APP, {}, key="key")
    usersig = user_sig(APP, "key")
    query = f"sdkappid={APP}&identifier={ADMIN}&usersig={usersig}&random=1&contenttype=json"

    def code() -> int:
        refusal = world.judge("china", "POST", OLD, query, b"{}").refusal
        return refusal.code if refusal else 0

    assert [code() for _ in range(101)] == [0] * 100 + [60007]
    at += 0.9
    assert code() == 60007
    at += 0.1
    assert code() == 0


def test_where_push_to_all_is_off_the_names_cannot_be_read(client: Client) -> None:
    client.simulator.configure("china", APP, push_enabled=False)
    assert client.code() == 90045
    client.simulator.configure("china", APP, push_enabled=True, timpush_enabled=False)
    assert client.code() == 0
    assert client.code(path=NEW) == 60027


def test_many_failed_signatures_lock_the_app_for_a_minute(client: Client) -> None:
    client.simulator.set_clock(lockout_after=3)
    wrong = {"signed": {"key": "another"}}
    assert [client.code(**wrong) for _ in range(4)] == [70009, 70009, 70009, 70050]
    assert client.code() == 70050, "the right key does not help now"
    client.simulator.set_clock(advance=59)
    assert client.code() == 70050
    client.simulator.set_clock(advance=2)
    assert client.code() == 0


def test_a_usersig_expires_by_the_vendors_clock(client: Client) -> None:
    client.simulator.set_clock(offset=86000)
    assert client.code() == 0
    client.simulator.set_clock(offset=86500)
    assert client.code() == 70001


def test_the_date_header_is_the_vendors_clock(client: Client) -> None:
    client.simulator.set_clock(date_skew=-300)
    response = client.response()
    response.read()
    date = parsedate_to_datetime(response.headers["Date"])
    off = date - client.simulator.log()[-1].arrived_at
    assert timedelta(seconds=-302) < off < timedelta(seconds=-298)


def test_a_new_key_replaces_the_old_or_is_valid_beside_it(client: Client) -> None:
    simulator = client.simulator
    simulator.rotate_key("china", APP, "second", keep_old=True)
    assert [client.code(signed={"key": key}) for key in ("key", "second")] == [0, 0]
    third = simulator.rotate_key("china", APP)
    assert simulator.key("china", APP) == third
    assert [client.code(signed={"key": key}) for key in ("second", third)] == [70009, 0]


def test_the_successor_answers_types_too(client: Client) -> None:
    client.simulator.add_app("china", APP, NAMES, key="key", app_types={0: 0, 2: 1})
    assert client.call(path=NEW)["AttrTypes"] == {"0": 0, "2": 1}
    assert "AttrTypes" not in client.call()


def test_the_two_apis_may_answer_different_names(client: Client) -> None:
    client.simulator.set_names("china", APP, {5: "other"}, api="timpush")
    assert client.call(path=NEW)["AttrNames"] == {"5": "other"}
    assert client.call()["AttrNames"]["0"] == "sex"


@pytest.mark.parametrize(
    ("shape", "shown"), [("object", {}), ("array", []), ("null", None), ("absent", "absent")]
)
def test_no_names_come_in_every_shape(client: Client, shape: str, shown: object) -> None:
    client.simulator.configure("china", APP, empty_as=shape)
    client.simulator.set_names("china", APP, {})
    assert client.call().get("AttrNames", "absent") == shown


def test_names_no_database_could_hold_are_sent_as_they_are(client: Client) -> None:
    client.simulator.set_names("china", APP, {0: "a\x00\ud800", 999: ""})
    assert client.call()["AttrNames"] == {"0": "a\x00\ud800", "999": ""}


def test_a_removed_app_is_unknown(client: Client) -> None:
    client.simulator.remove_app("china", APP)
    assert client.code() == 70020
    with pytest.raises(SimulatorError, match="no app 20000001"):
        client.simulator.truth("china", APP)


def test_only_tls_1_2_and_newer_is_spoken(simulator: Simulator) -> None:
    context = ssl.create_default_context(cafile=simulator.ca_bundle)
    address = ("127.0.0.1", simulator.ports["china"])
    with (
        socket.create_connection(address) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secure,
    ):
        assert secure.version() in ("TLSv1.2", "TLSv1.3")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection(address) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw, server_hostname="localhost")


def test_under_a_name_it_serves_other_hosts_and_its_certificate_says_so(tmp_path: Path) -> None:
    with Simulator.start(tmp_path) as at_home:
        assert at_home.base_url("china") == f"https://127.0.0.1:{at_home.ports['china']}"
    with Simulator.start(tmp_path, name="simulator") as named:
        named.add_app("china", 1400000001, {})
        fields = named.connection_json("china", 1400000001)
        assert (fields["host"], fields["port"]) == ("simulator", named.ports["china"])
        context = ssl.create_default_context(cafile=named.ca_bundle)
        with (
            socket.create_connection(("127.0.0.1", named.ports["china"])) as raw,
            context.wrap_socket(raw, server_hostname="simulator"),
        ):
            pass


# Faults --------------------------------------------------------------------------------------


def test_a_schedule_is_kept_answer_by_answer(client: Client) -> None:
    client.simulator.schedule(["bad_gateway", "ok", "drop"], region="china")
    response = client.response()
    assert response.status == 502
    assert b"<html>" in response.read()
    assert client.code() == 0
    with pytest.raises(http.client.RemoteDisconnected):
        client.response()
    assert client.code() == 0
    log = client.simulator.log()
    assert [entry.fault for entry in log] == ["bad_gateway", None, "drop", None]
    assert [entry.result for entry in log] == ["other", "names", "nothing", "names"]
    assert log[2].departed_at is None
    assert len({entry.connection for entry in log}) == 2


def test_a_lasting_fault_lasts_until_it_is_cleared(client: Client) -> None:
    client.simulator.fault("code", app=APP, times=None, code=91000, info="busy")
    client.simulator.fault("code", app=APP, code=60008, info="counted ones go first")
    assert [client.code() for _ in range(3)] == [60008, 91000, 91000]
    client.simulator.clear_faults()
    assert client.code() == 0


def test_a_fault_meets_only_the_app_it_was_set_for(client: Client) -> None:
    client.simulator.add_app("china", 7, {0: "x"}, key="key")
    client.simulator.fault("bad_gateway", region="china", app=7, times=None)
    assert client.code() == 0
    assert client.response(app=7).status == 502
    assert client.simulator.planned_faults()[0]["lasting"] == "bad_gateway"


def test_a_region_fails_until_it_is_set_to_recover(client: Client) -> None:
    client.simulator.set_failing("china", True)
    response = client.response()
    assert response.status == 502
    response.read()
    client.simulator.set_failing("china", False)
    assert client.code() == 0


def test_a_connection_can_end_by_a_reset(client: Client) -> None:
    client.simulator.fault("drop", reset=True)
    with pytest.raises((ConnectionResetError, ssl.SSLError)):
        client.response()


@pytest.mark.parametrize("where", ["body", "headers"])
def test_half_an_answer_breaks_off(client: Client, where: str) -> None:
    client.simulator.fault("half", where=where)
    if where == "body":
        with pytest.raises(http.client.IncompleteRead):
            client.response().read()
    else:  # the standard library takes the end of the stream for the end of the headers
        response = client.response()
        assert "Content-Length" not in response.headers
        assert response.read() == b""
    (entry,) = client.simulator.log()
    assert (entry.result, entry.complete) == ("names", False)


@pytest.mark.parametrize("where", ["body", "headers"])
def test_a_dripping_answer_comes_whole_in_the_end(client: Client, where: str) -> None:
    client.simulator.fault("drip", where=where, interval=0.001)
    assert client.code() == 0
    (entry,) = client.simulator.wait_for_requests()
    assert entry.complete


def test_a_hanging_answer_never_comes(
    client: Client, beside: Callable[[Callable[[], Any]], Future[Any]]
) -> None:
    client.simulator.fault("hang")
    answer = beside(client.response)
    client.simulator.wait_held()
    assert client.simulator.log()[0].result == "pending"
    client.simulator.clear_faults()
    with pytest.raises(http.client.RemoteDisconnected):
        answer.result()
    assert client.simulator.log()[0].result == "nothing"


def test_a_client_that_gives_up_is_noted(client: Client) -> None:
    client.call()
    client.connection.sock.settimeout(0.05)
    client.simulator.fault("hang")
    with pytest.raises(TimeoutError):
        client.response()
    client.connection.close()
    _, entry = client.simulator.wait_for_requests(2)
    assert (entry.result, entry.complete) == ("nothing", False)


@pytest.mark.parametrize(("at", "city"), [("arrival", "city"), ("departure", "town")])
def test_a_held_answer_has_what_was_true_when_it_was_asked_for(
    client: Client, beside: Callable[[Callable[[], Any]], Future[Any]], at: str, city: str
) -> None:
    simulator = client.simulator
    simulator.fault("hold", at=at)
    late = beside(client.call)
    simulator.wait_held()
    changed = simulator.set_name("china", APP, 1, "town")
    early = Client(simulator).call()
    assert simulator.release() == 1
    assert late.result()["AttrNames"]["1"] == city
    assert early["AttrNames"]["1"] == "town"
    first, second = simulator.log()
    assert first.departure is not None
    assert second.departure is not None
    assert first.departure > second.departure, "it overtook the earlier one"
    assert first.arrived_at < changed <= (second.truth_since or first.arrived_at)
    assert (first.truth_since == second.truth_since) == (at == "departure")


def test_a_delayed_answer_has_what_was_true_on_arrival(client: Client) -> None:
    client.simulator.set_latency(0.03, region="china")
    client.simulator.fault("delay", seconds=0.02)
    client.call()
    client.call()
    first, second = client.simulator.log()
    assert first.departed_at is not None
    assert second.departed_at is not None
    assert first.departed_at - first.arrived_at >= timedelta(milliseconds=49)
    assert second.departed_at - second.arrived_at >= timedelta(milliseconds=29)


def test_an_answer_can_show_other_names_once(client: Client) -> None:
    client.simulator.fault("answer_names", names={0: "flap"})
    assert client.call()["AttrNames"] == {"0": "flap"}
    assert client.call()["AttrNames"]["0"] == "sex"
    flap, true = client.simulator.log()
    assert (flap.names, flap.truth_since) == ({0: "flap"}, None)
    assert (true.names, true.truth_since) == (NAMES, client.simulator.truth("china", APP).since)


def test_any_code_comes_with_any_text(client: Client) -> None:
    client.simulator.schedule(
        [
            {"kind": "code", "code": 70032, "info": ""},
            {"kind": "code", "code": 1, "info": {"no": ["text"]}},
        ]
    )
    answers = [client.call() for _ in range(2)]
    assert [answer["ErrorCode"] for answer in answers] == [70032, 1]
    assert [answer["ErrorInfo"] for answer in answers] == ["", {"no": ["text"]}]


def test_any_bytes_can_be_answered(client: Client) -> None:
    client.simulator.schedule(
        [
            {"kind": "raw", "body": b"\xff\x00{", "status": 418, "headers": {"X-Odd": "yes"}},
            {"kind": "raw", "body": b"x" * 50_000, "chunked": True},
        ]
    )
    response = client.response()
    assert (response.status, response.headers["X-Odd"]) == (418, "yes")
    assert response.read() == b"\xff\x00{"
    response = client.response()
    assert response.headers["Content-Length"] is None
    assert response.read() == b"x" * 50_000


def test_a_redirect_leads_elsewhere(client: Client) -> None:
    client.simulator.fault("redirect", status=307, location="https://localhost:1/x")
    response = client.response()
    assert (response.status, response.headers["Location"]) == (307, "https://localhost:1/x")


def test_an_answer_can_be_far_too_large_and_valid_still(client: Client) -> None:
    client.simulator.fault("oversize", size=3_000_000)
    body = client.response().read()
    assert len(body) == 3_000_000
    assert json.loads(body)["AttrNames"]["0"] == "sex"


def test_a_small_answer_can_unpack_to_a_large_one(client: Client) -> None:
    client.simulator.fault("gzip_bomb", size=5_000_001)
    response = client.response()
    assert response.headers["Content-Encoding"] == "gzip"
    body = response.read()
    assert len(body) < 10_000
    assert len(gzip.decompress(body)) == 5_000_001


def test_a_kept_alive_connection_can_end_without_a_word(client: Client) -> None:
    client.simulator.fault("close_after")
    response = client.response()
    assert response.headers["Connection"] == "keep-alive"
    assert json.loads(response.read())["ErrorCode"] == 0
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError, ssl.SSLError)):
        client.response()


def test_an_error_can_quote_the_secret_it_was_sent(client: Client) -> None:
    usersig = user_sig(APP, "key")
    client.simulator.schedule(
        [
            {"kind": "code", "info": "no such %USERSIG% in %URL%"},
            {"kind": "raw", "status": 502, "body": "<html>%URL%</html>"},
        ]
    )
    info = client.call(usersig=usersig)["ErrorInfo"]
    assert usersig in info
    assert "contenttype=json" in info
    assert b"usersig=" in client.response().read()
    assert client.simulator.log()[0].info == "no such %USERSIG% in %URL%"


@pytest.mark.parametrize("wrong", [{"kind": "sulk"}, {"kind": "drop", "spell": 1}, {"at": "x"}])
def test_a_fault_that_does_not_exist_is_refused(
    simulator: Simulator, wrong: dict[str, Any]
) -> None:
    with pytest.raises(SimulatorError):
        simulator.schedule([wrong])


# The log and the truth ---------------------------------------------------------------------------


def test_the_log_has_what_was_answered_and_when(client: Client) -> None:
    client.call()
    changed = client.simulator.set_names("china", APP, {0: "gender"})
    client.call(path=NEW)
    client.code(app=3)
    first, second, third = client.simulator.log()
    assert [entry.seq - first.seq for entry in (first, second, third)] == [0, 1, 2]
    assert (first.names, first.api) == (NAMES, "all_member_push")
    assert (second.names, second.api) == ({0: "gender"}, "timpush")
    assert (third.result, third.code, third.app_id) == ("code", 70020, 3)
    assert first.departed_at is not None
    assert first.arrived_at <= first.departed_at <= changed <= second.arrived_at
    assert second.truth_since == changed
    assert {entry.connection for entry in (first, second, third)} == {first.connection}
    assert first.port == client.simulator.ports["china"]
    assert client.simulator.log(after=second.seq) == [third]


def test_the_truth_is_kept_with_its_times(simulator: Simulator) -> None:
    moments = [simulator.truth("china", APP).since]
    moments.append(simulator.set_name("china", APP, 3, "tier"))
    moments.append(simulator.set_name("china", APP, 0, None))
    assert simulator.set_name("china", APP, 3, "tier") == moments[-1], "nothing changed"
    history = simulator.history("china", APP)
    assert [truth.since for truth in history] == moments == sorted(moments)
    assert [truth.names for truth in history] == [
        NAMES,
        {**NAMES, 3: "tier"},
        {1: "city", 2: "会员等级", 3: "tier"},
    ]


def test_a_thousand_apps_are_added_at_once(simulator: Simulator) -> None:
    simulator.add_apps(NewApp("china", 30000 + n, {0: f"n{n}"}) for n in range(1000))
    assert len(simulator.apps()) == 1001
    connection = simulator.connection_json("china", 30999, timeout=5, app_group=None)
    assert connection["extra"] == {
        "region": "china",
        "sdk_app_id": 30999,
        "api": "all_member_push",
        "ca_bundle": simulator.ca_bundle,
        "timeout": 5,
    }
    client = Client(simulator)
    assert client.code(app=30999, signed={"key": connection["password"]}) == 0
    assert connection["port"] == client.connection.port


def test_one_connection_serves_many_calls(client: Client) -> None:
    before = client.simulator.stats()
    for _ in range(5):
        client.call()
    after = client.simulator.stats()
    assert after["connections"]["china"] == before["connections"].get("china", 0) + 1
    assert after["requests"]["china"] == before["requests"].get("china", 0) + 5


def test_the_control_port_is_closed_to_strangers(simulator: Simulator, tmp_path: Path) -> None:
    address = simulator.control.address
    connection = http.client.HTTPConnection(str(address.hostname), address.port)
    connection.request("GET", "/connection?region=china&app_id=20000001")
    response = connection.getresponse()
    assert response.status == 401
    assert b"key" not in response.read().replace(b"token", b"")
    connection.close()


# The process -------------------------------------------------------------------------------------


def by_hand(state: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "simulator", *arguments, "--state", str(state)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30
    )


def test_names_keys_and_ports_outlast_a_kill(tmp_path: Path) -> None:
    simulator = Simulator.start(tmp_path, regions=["seoul"])
    simulator.add_app("seoul", APP, NAMES, app_types={0: 1})
    simulator.set_name("seoul", APP, 0, "gender")
    before = simulator.connection_json("seoul", APP)
    simulator.kill()
    assert Simulator.attach(tmp_path) is None
    with Simulator.start(tmp_path, regions=["seoul"]) as again:
        assert again.connection_json("seoul", APP) == before
        assert again.truth("seoul", APP).names[0] == "gender"
        assert again.truth("seoul", APP, api="timpush").types == {0: 1}
        client = Client(again, "seoul")
        assert client.code(signed={"key": before["password"]}) == 0
        attached = Simulator.attach(tmp_path)
        assert attached is not None
        assert attached.log()[0].names == again.truth("seoul", APP).names
        with pytest.raises(SimulatorError, match="running on this state folder already"):
            Simulator.start(tmp_path, regions=["seoul"])
    assert not (tmp_path / "simulator.json").exists()


def test_no_file_but_the_private_ones_holds_a_secret(tmp_path: Path) -> None:
    with Simulator.start(tmp_path, regions=["seoul"]) as simulator:
        simulator.add_app("seoul", APP, NAMES)
        key = simulator.key("seoul", APP)
        usersig = user_sig(APP, key)
        simulator.fault("code", info="%USERSIG%")
        client = Client(simulator, "seoul")
        client.call(usersig=usersig)
        client.call(usersig=usersig)
        files = {path.name: path for path in tmp_path.iterdir()}
        holding = {name for name, path in files.items() if key.encode() in path.read_bytes()}
        assert holding == {"keys.json"}
        assert not [p for p in files.values() if usersig.encode() in p.read_bytes()]
        for name in ("keys.json", "server-key.pem", "simulator.json"):
            assert stat.S_IMODE(files[name].stat().st_mode) == 0o600
        assert not any("ca-key" in name for name in files)


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys\n"
        "from simulator.control import Simulator\n"
        "simulator = Simulator.start(pathlib.Path(sys.argv[1]))\n"
        "print(simulator.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    # The lock is the process's own: it is free once the process is gone.
    assert int(done.stdout) != os.getpid()
    with Simulator.start(tmp_path) as again:
        assert again.pid != int(done.stdout)


def status(simulator: Simulator, region: str) -> int:
    """What an app of the story answers to a poll."""
    key = simulator.key(region, APPS[region])
    return Client(simulator, region).response(app=APPS[region], signed={"key": key}).status


def next_step(simulator: Simulator) -> dict[str, Any]:
    """A run polls every app, and the story moves on."""
    for region in REGIONS:
        status(simulator, region)
    return simulator.advance_story()


def test_the_story_continues_step_by_step_across_a_restart(tmp_path: Path) -> None:
    def names(simulator: Simulator) -> dict[str, dict[int, str]]:
        return {region: simulator.truth(region, app).names for region, app in APPS.items()}

    def changed(
        before: dict[str, dict[int, str]], after: dict[str, dict[int, str]]
    ) -> dict[str, set[int]]:
        slots = {
            region: {
                slot
                for slot in before[region].keys() | after[region].keys()
                if before[region].get(slot) != after[region].get(slot)
            }
            for region in APPS
        }
        return {region: each for region, each in slots.items() if each}

    def violated(names: dict[str, dict[int, str]]) -> dict[str, set[int]]:
        declaration = parse(DECLARED_NAMES.read_text(encoding="utf-8"), "x").declaration
        assert sum(len(group.exceptions) for group in declaration.groups.values()) == 1
        now = datetime.now(UTC)
        return {
            region: set(found)
            for region, app in APPS.items()
            if (found := violations(declaration, "shop", AppKey(region, app), names[region], now))
        }

    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert tuple(simulator.ports) == REGIONS
        baseline = names(simulator)
        assert violated(baseline) == {}
        assert {simulator.connection_json(r, a)["extra"]["app_group"] for r, a in APPS.items()} == {
            "shop"
        }
        assert {status(simulator, region) for region in REGIONS} == {200}
        assert next_step(simulator)["step"] == 2
        renamed = names(simulator)
        assert changed(baseline, renamed) == {"frankfurt": {2}}
        assert violated(renamed) == {"frankfurt": {2}}
        next_step(simulator)
        edited = names(simulator)
        assert changed(renamed, edited) == {"singapore": {4}, "seoul": {3}}
        assert len(edited["singapore"]) == 5
        assert len(edited["seoul"]) == 3
        next_step(simulator)
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert names(simulator) == edited
        assert status(simulator, "jakarta") == 502
        next_step(simulator)
        back = names(simulator)
        assert changed(edited, back) == {"jakarta": {1}}
        assert status(simulator, "jakarta") == 200
        next_step(simulator)
        restored = names(simulator)
        assert changed(back, restored) == {"frankfurt": {2}}
        assert violated(restored) == {"singapore": {4}, "seoul": {3}, "jakarta": {1}}
        for _ in range(3):
            step = next_step(simulator)
        assert step["step"] == step["steps"] == len(STEPS)
        assert names(simulator) == restored


def test_a_step_that_nobody_saw_is_not_passed_over(tmp_path: Path) -> None:
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert simulator.advance_story()["step"] == 1  # no run has polled any app
        assert next_step(simulator)["step"] == 2
        assert status(simulator, "seoul") == 200  # the step is about frankfurt
        assert simulator.advance_story()["step"] == 2
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert simulator.advance_story()["step"] == 2
        refused = Client(simulator, "frankfurt").code(app=APPS["frankfurt"])
        assert refused == 70009  # a poll with another key sees nothing
        assert simulator.advance_story()["step"] == 2
        assert status(simulator, "frankfurt") == 200
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert simulator.advance_story()["step"] == 3
        status(simulator, "singapore")
        assert simulator.advance_story()["step"] == 3
        status(simulator, "seoul")
        assert simulator.advance_story()["step"] == 4
        assert status(simulator, "jakarta") == 502  # that is what there is to see
        assert simulator.advance_story()["step"] == 5


def test_a_change_by_hand_ends_the_story_and_is_the_only_change(tmp_path: Path) -> None:
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        for _ in range(3):
            next_step(simulator)
        before = simulator.apps()
        done = by_hand(tmp_path, "set", "frankfurt", "2", "tier")
        assert done.returncode == 0, done.stderr
        assert "'tier'" in done.stdout
        assert "by hand" in done.stdout
        simulator.advance_story()
        after = simulator.apps()
        different = [a for a, b in zip(after, before, strict=True) if a["names"] != b["names"]]
        assert [app["region"] for app in different] == ["frankfurt"]
        assert not any(app["failing"] for app in after)
    # The same while none runs: it is there at the next start.
    assert by_hand(tmp_path, "unset", "frankfurt", "2").returncode == 0
    assert by_hand(tmp_path, "fail", "seoul").returncode == 0
    refused = by_hand(tmp_path, "set", "frankfurt", "2", "city")
    assert (refused.returncode, refused.stderr) == (
        1,
        "attrName:city already exists at index:1\n",
    )
    with Simulator.start(tmp_path, regions=(), story=True) as simulator:
        assert 2 not in simulator.truth("frankfurt", APPS["frankfurt"]).names
        assert [app["region"] for app in simulator.apps() if app["failing"]] == ["seoul"]
