"""Starts, steers and questions a simulator from tests and from the launcher. Standard library only.

::

    with Simulator.start(tmp_path, regions=["china", "frankfurt"]) as simulator:
        simulator.add_app("frankfurt", 20000001, {0: "sex", 1: "city"})
        connection = simulator.connection_json("frankfurt", 20000001)
        simulator.fault("bad_gateway", region="frankfurt", times=3)
        ...
        assert simulator.log()[-1].names == {0: "sex", 1: "city"}
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from simulator.files import StateLock, read_json
from simulator.world import ALL_MEMBER_PUSH, SimulatorError

_ROOT = Path(__file__).resolve().parents[1]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Truth:
    """An app's names (and types) as they truly were from ``since`` on, until the next one."""

    since: datetime
    names: dict[int, str]
    types: dict[int, int]


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One request and what was truly answered; see ``journal.Entry`` for the fields' meaning."""

    seq: int
    connection: int
    region: str
    port: int
    method: str
    app_id: int | None
    api: str | None
    arrived_at: datetime
    departed_at: datetime | None
    departure: int | None
    result: str
    names: dict[int, str] | None
    types: dict[int, int] | None
    truth_since: datetime | None
    code: int | None
    info: str | None
    status: int | None
    body_size: int | None
    fault: str | None
    complete: bool
    ended: bool


@dataclass(frozen=True, slots=True)
class NewApp:
    """An app to be added. ``settings``: see ``world.SETTINGS``."""

    region: str
    app_id: int
    names: Mapping[int, str]
    types: Mapping[int, int] | None = None
    key: str | None = None
    admins: Sequence[str] = ("administrator",)
    settings: Mapping[str, Any] | None = None


class Simulator:
    """A simulator that runs. Safe to use from several threads."""

    def __init__(
        self, announcement: Mapping[str, Any], process: subprocess.Popen[bytes] | None = None
    ) -> None:
        self._process = process
        self._token: str = announcement["token"]
        self._control = urlsplit(str(announcement["control"]))
        self._local = threading.local()
        self.host: str = announcement["host"]
        self.ports: dict[str, int] = dict(announcement["ports"])
        self.ca_bundle: str = announcement["ca"]
        self.pid: int = announcement["pid"]

    @classmethod
    def start(
        cls,
        state_dir: Path,
        *,
        regions: Sequence[str] = ("china",),
        story: bool = False,
        lasting: bool = True,
        new_session: bool = True,
        name: str | None = None,
        timeout: float = 30.0,
    ) -> Simulator:
        """Start one on ``state_dir`` and wait until it serves.

        It ends with ``stop()`` or with this process, however that ends. ``lasting=False`` keeps
        nothing for a later start and is faster. ``new_session``: a Ctrl-C does not reach it.
        ``name``: it serves other hosts too, under this name.
        """
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "simulator", "--die-with-parent"]
        command += ["--state", str(state_dir.resolve()), "--regions", ",".join(regions)]
        command += ["--story"] if story else []
        command += [] if lasting else ["--ephemeral"]
        command += ["--name", name] if name else []
        search = [str(_ROOT), os.environ.get("PYTHONPATH", "")]
        with (state_dir / "simulator.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=new_session,
            )
        try:
            ready = _first_line(process, timeout)
            announcement = read_json(state_dir / "simulator.json")
            if not ready.startswith(b"ready") or announcement is None:
                said = (state_dir / "simulator.log").read_text("utf-8", "replace").strip()
                raise SimulatorError(f"the simulator did not start: {said or 'it said nothing'}")
        except BaseException:
            _end(process)
            raise
        return cls(announcement, process)

    @classmethod
    def attach(cls, state_dir: Path) -> Simulator | None:
        """The one that runs on ``state_dir`` already, if any."""
        if not state_dir.is_dir():
            return None
        lock = StateLock(state_dir)
        if lock.acquire():
            lock.release()
            return None
        announcement = read_json(state_dir / "simulator.json")
        return cls(announcement) if announcement else None

    def stop(self) -> None:
        """End it and wait for it; one that was attached to is left alone."""
        if self._process is not None:
            _end(self._process)
            self._process = None

    def kill(self) -> None:
        """End it by SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self.stop()

    def __enter__(self) -> Simulator:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # Where it is ---------------------------------------------------------------------------------

    def base_url(self, region: str) -> str:
        """``https://host:port`` of a region."""
        return f"https://{self.host}:{self.ports[region]}"

    def key(self, region: str, app_id: int) -> str:
        """The app's current secret key."""
        return str(self._get("/connection", region=region, app_id=app_id)["password"])

    def connection_json(self, region: str, app_id: int, **extra: Any) -> dict[str, Any]:
        """The app as an Airflow Connection in JSON form; ``extra`` is added to, or overrides, it.

        ``None`` as a value leaves that field of the extra out.
        """
        told = self._get("/connection", region=region, app_id=app_id)
        fields = {
            "region": region,
            "sdk_app_id": app_id,
            "app_group": told["app_group"],
            "api": told["api"],
            "ca_bundle": self.ca_bundle,
            **extra,
        }
        return {
            "conn_type": "tencent_im",
            "login": told["login"],
            "password": told["password"],
            "host": self.host,
            "port": told["port"],
            "extra": {name: value for name, value in fields.items() if value is not None},
        }

    # What is true --------------------------------------------------------------------------------

    def add_app(
        self,
        region: str,
        app_id: int,
        names: Mapping[int, str],
        *,
        key: str | None = None,
        admin: str = "administrator",
        app_types: Mapping[int, int] | None = None,
        **settings: Any,
    ) -> None:
        """Add an app, or an old one anew. ``settings``: see ``world.SETTINGS``."""
        self.add_apps([NewApp(region, app_id, names, app_types, key, (admin,), settings)])

    def add_apps(self, apps: Iterable[NewApp]) -> None:
        """Add many apps at once."""
        given = [
            {
                "region": app.region,
                "app_id": app.app_id,
                "names": app.names,
                "types": app.types,
                "key": app.key,
                "admins": list(app.admins),
                **(app.settings or {}),
            }
            for app in apps
        ]
        self._post("/apps", apps=given)

    def remove_app(self, region: str, app_id: int) -> None:
        """From now on the vendor does not know this app."""
        self._post("/apps/remove", region=region, app_id=app_id)

    def configure(self, region: str, app_id: int, **settings: Any) -> None:
        """Change settings of an app (``world.SETTINGS``, ``admins``), e.g. ``push_enabled``."""
        self._post("/apps/configure", region=region, app_id=app_id, settings=settings)

    def set_names(
        self,
        region: str,
        app_id: int,
        names: Mapping[int, str],
        *,
        types: Mapping[int, int] | None = None,
        api: str | None = None,
    ) -> datetime:
        """Make these the app's names, at one moment, which is returned.

        Types stay where not given. ``api``: only what that API family answers.
        """
        told = self._post("/names", region=region, app_id=app_id, names=names, types=types, api=api)
        return _moment(told["since_us"])

    def set_name(
        self, region: str, app_id: int, slot: int, name: str | None, *, api: str | None = None
    ) -> datetime:
        """Change one slot (None: take its name away); the moment it became true."""
        told = self._post("/name", region=region, app_id=app_id, slot=str(slot), name=name, api=api)
        return _moment(told["since_us"])

    def rotate_key(
        self, region: str, app_id: int, key: str | None = None, *, keep_old: bool = False
    ) -> str:
        """Give the app a new key, which is returned; ``keep_old``: both are valid."""
        told = self._post("/key", region=region, app_id=app_id, key=key, keep_old=keep_old)
        return str(told["key"])

    def apps(self) -> list[dict[str, Any]]:
        """Every app and what it shows at present, without its keys."""
        return list(self._get("/apps"))

    def truth(self, region: str, app_id: int, *, api: str = ALL_MEMBER_PUSH) -> Truth:
        """What is true at present."""
        return self.history(region, app_id, api=api)[-1]

    def history(self, region: str, app_id: int, *, api: str = ALL_MEMBER_PUSH) -> list[Truth]:
        """What was true, in order, since the app was added (or the simulator started)."""
        told = self._get("/truth", region=region, app_id=app_id)[api]
        return [
            Truth(_moment(each["since_us"]), _slots(each["names"]), _slots(each["types"]))
            for each in told
        ]

    # What goes wrong -----------------------------------------------------------------------------

    def fault(
        self,
        kind: str,
        *,
        region: str | None = None,
        app: int | None = None,
        api: str | None = None,
        times: int | None = 1,
        **fields: Any,
    ) -> int:
        """Let the next ``times`` answers (None: all, until cleared) go wrong; the rule's number.

        ``kind`` and ``fields``: see ``faults.KINDS`` and ``faults.Fault``. Where neither region nor
        app is given, every request meets it.
        """
        return self.schedule(
            [{"kind": kind, **fields}], region=region, app=app, api=api, times=times
        )

    def schedule(
        self,
        faults: Sequence[str | Mapping[str, Any]],
        *,
        region: str | None = None,
        app: int | None = None,
        api: str | None = None,
        times: int | None = 1,
    ) -> int:
        """Let the next answers go wrong one by one, e.g. ``["bad_gateway", "ok", "drop"]``."""
        told = self._post(
            "/faults",
            faults=[_plain(fault) for fault in faults],
            region=region,
            app_id=app,
            api=api,
            times=times,
        )
        return int(told["rule"])

    def clear_faults(self, *, region: str | None = None, app: int | None = None) -> None:
        """Forget what was planned, and drop the connections that hang. Held answers stay held."""
        self._post("/faults/clear", region=region, app_id=app)

    def planned_faults(self) -> list[dict[str, Any]]:
        """What is still to go wrong."""
        return list(self._get("/faults"))

    def release(self, *, region: str | None = None, app: int | None = None) -> int:
        """Send the answers that are held; how many there were."""
        return int(self._post("/release", region=region, app_id=app)["released"])

    def wait_held(self, count: int = 1, *, timeout: float = 10.0) -> None:
        """Wait until this many requests hang or are held."""
        told = self._get("/held", slow=timeout, count=count, wait=timeout)
        if not told["reached"]:
            raise SimulatorError(f"only {len(told['held'])} of {count} requests are held")

    def set_latency(
        self, seconds: float, *, region: str | None = None, app: int | None = None
    ) -> None:
        """Answer that much later from now on (with what was true on arrival)."""
        self._post("/latency", region=region, app_id=app, seconds=seconds)

    def set_failing(self, region: str, failing: bool) -> None:
        """Answer a region's every call with 502, or no longer; outlasts a restart."""
        self._post("/failing", region=region, failing=failing)

    def set_clock(
        self,
        *,
        offset: float | None = None,
        advance: float | None = None,
        date_skew: float | None = None,
        lockout_after: int | None = None,
        lockout_seconds: float | None = None,
    ) -> None:
        """Move the vendor's clock (expiry, lock-out, Date), or only its ``Date`` header.

        Also how many failed signatures within ``lockout_seconds`` (60) lock an app (30). The times
        in the log stay true.
        """
        self._post(
            "/clock",
            clock_offset=offset,
            advance=advance,
            date_skew=date_skew,
            lockout_after=lockout_after,
            lockout_seconds=lockout_seconds,
        )

    def reset(self) -> None:
        """Forget apps, faults and log, set the clock right; ports and certificate stay."""
        self._post("/reset")

    # What happened -------------------------------------------------------------------------------

    def log(self, after: int = 0) -> list[LogEntry]:
        """Every request after this ``seq``, in the order of arrival."""
        return self._entries(self._get("/log", after=after))

    def wait_for_requests(
        self, count: int = 1, *, after: int = 0, ended: bool = True, timeout: float = 10.0
    ) -> list[LogEntry]:
        """Wait for this many requests (``ended``: done with, not just arrived) after a ``seq``."""
        told = self._get(
            "/log", slow=timeout, after=after, count=count, ended=int(ended), wait=timeout
        )
        entries = self._entries(told)
        if not told["reached"]:
            raise SimulatorError(f"waited for {count} requests, {len(entries)} came")
        return entries

    def stats(self) -> dict[str, Any]:
        """TLS ``connections`` ever opened and ``requests`` per region; connections ``open`` now."""
        return dict(self._get("/stats"))

    # The story -----------------------------------------------------------------------------------

    def story(self) -> dict[str, Any] | None:
        """``step``, ``steps``, ``ended_by_hand`` and ``what`` this step is about; None without."""
        told = self._get("/story")
        return None if told is None else dict(told)

    def advance_story(self) -> dict[str, Any]:
        """One step on; the new state as in ``story()``."""
        return dict(self._post("/story/advance"))

    # How it is asked -----------------------------------------------------------------------------

    @staticmethod
    def _entries(told: Mapping[str, Any]) -> list[LogEntry]:
        if told["let_go"]:
            raise SimulatorError(f"the log has let go of {told['let_go']} entries: use reset()")
        entries = []
        for entry in told["entries"]:
            for ours, theirs in (
                ("arrived_at", "arrived_us"),
                ("departed_at", "departed_us"),
                ("truth_since", "truth_us"),
            ):
                at = entry.pop(theirs)
                entry[ours] = None if at is None else _moment(at)
            for field in ("names", "types"):
                entry[field] = None if entry[field] is None else _slots(entry[field])
            entries.append(LogEntry(**entry))
        return entries

    def _get(self, path: str, *, slow: float = 0.0, **query: Any) -> Any:
        return self._ask("GET", f"{path}?{urlencode(query)}", None, slow)

    def _post(self, path: str, **content: Any) -> Any:
        return self._ask("POST", path, json.dumps(content).encode(), 0.0)

    def _ask(self, method: str, target: str, body: bytes | None, slow: float) -> Any:
        # One connection per thread, and none taken over through a fork.
        known: tuple[int, http.client.HTTPConnection] | None = getattr(self._local, "known", None)
        if known is None or known[0] != os.getpid():
            known = (
                os.getpid(),
                http.client.HTTPConnection(self._control.hostname or "", self._control.port),
            )
            self._local.known = known
        connection = known[1]
        connection.timeout = 60.0 + slow
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        try:
            connection.request(
                method, target, body, headers={"Authorization": f"Bearer {self._token}"}
            )
            response = connection.getresponse()
            content = json.loads(response.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise SimulatorError(f"the simulator does not answer: {error}") from None
        if response.status != 200:
            raise SimulatorError(content["error"])
        return content


def _moment(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _slots(told: Mapping[str, Any]) -> dict[int, Any]:
    return {int(slot): value for slot, value in told.items()}


def _plain(fault: str | Mapping[str, Any]) -> str | dict[str, Any]:
    """The fault as JSON can carry it: a body of bytes in base64."""
    if isinstance(fault, str):
        return fault
    fields = dict(fault)
    if isinstance(fields.get("body"), bytes):
        fields["body_b64"] = base64.b64encode(fields.pop("body")).decode()
    return fields


def _first_line(process: subprocess.Popen[bytes], timeout: float) -> bytes:
    """What the process says first; empty if it ends or stays silent."""
    stream: IO[bytes] | None = process.stdout
    said = b""
    deadline = time.monotonic() + timeout
    while stream is not None and not said.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([stream], [], [], left)[0]:
            break
        part = os.read(stream.fileno(), 4096)
        if not part:
            break
        said += part
    return said


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
