"""What is a valid answer, and which error anything else is."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import re
import urllib.parse
import zlib
from typing import Any

import pytest
from im_attr_audit.errors import Invalid, PollFailed, Rejected, Unavailable
from im_attr_audit.names import AttrName
from im_attr_audit.tencent.answer import Reply, judge
from im_attr_audit.tencent.redact import REDACTED, inert, redact, safe_text
from im_attr_audit.tencent.usersig import user_sig

from tests import hostile
from tests.counts import count
from tests.growth import grows_linearly
from tests.hostile import parse

KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"


def body(**fields: Any) -> bytes:
    return json.dumps({"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0} | fields).encode()


def failure_of(raw: bytes, http_status: int = 200) -> PollFailed:
    with pytest.raises(PollFailed) as caught:
        parse(raw, http_status=http_status)
    return caught.value


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        pytest.param({"0": "sex"}, {0: AttrName("sex")}, id="one"),
        pytest.param({"999": "a", "10": "b"}, {999: AttrName("a"), 10: AttrName("b")}, id="999"),
        pytest.param({"0": ""}, {0: AttrName("")}, id="empty_name"),
        pytest.param({"0": " A "}, {0: AttrName(" A ")}, id="blanks_kept"),
        pytest.param({"0": "e\u0301"}, {0: AttrName("e\u0301")}, id="not_normalised"),
        pytest.param({"0": "\x1b[2J"}, {0: AttrName("\x1b[2J")}, id="terminal_escape_is_data"),
        pytest.param({"0": "🙂" * 256}, {0: AttrName("🙂" * 256)}, id="1024_bytes"),
        pytest.param({}, {}, id="no_names"),
        pytest.param([], {}, id="php_no_names"),
        pytest.param(None, {}, id="null"),
    ],
)
def test_valid_names_are_kept_exactly(names: Any, expected: dict[int, AttrName]) -> None:
    assert parse(body(AttrNames=names)) == expected


def test_an_answer_without_attrnames_means_no_names() -> None:
    assert parse(body()) == {}


def test_types_are_kept_where_they_are_sent() -> None:
    raw = body(AttrNames={"0": "a", "1": "b", "2": "c"}, AttrTypes={"0": 0, "2": -32768})
    assert parse(raw) == {0: AttrName("a", 0), 1: AttrName("b"), 2: AttrName("c", -32768)}


@pytest.mark.parametrize(("levels", "is_taken"), [(99, True), (100, False), (5_000, False)])
def test_an_answer_is_nested_at_most_a_hundred_levels_deep_on_every_python(
    levels: int, is_taken: bool
) -> None:
    nested = '{"a":' * (levels // 2) + "[" * (levels - levels // 2)
    nested += "]" * (levels - levels // 2) + "}" * (levels // 2)
    raw = body(AttrNames={"0": "[[{" * 100 + '"]\\'})[:-1] + f', "x": {nested}}}'.encode()
    if is_taken:
        assert parse(raw) == {0: AttrName("[[{" * 100 + '"]\\')}
    else:
        assert "nested too deeply" in str(failure_of(raw).error_info)


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    raw = body(AttrNames={"0": "a"})[:-1] + b',"X":{"a":1,"a":2},"Y":' + b"9" * 5000 + b"}"
    assert parse(raw) == {0: AttrName("a")}


@pytest.mark.parametrize("info", ["succeed", None, 7, ["x"]])
def test_error_info_is_optional_text_on_success(info: Any) -> None:
    assert parse(body(ErrorInfo=info)) == {}


@pytest.mark.parametrize("raw", hostile.PIECES.values(), ids=hostile.PIECES.keys())
def test_anything_else_is_invalid_with_a_reason(raw: bytes) -> None:
    failure = failure_of(raw)
    assert type(failure) is Invalid
    assert failure.reason
    assert len(failure.reason) < 200
    assert failure.__cause__ is None
    assert failure.__context__ is None


def test_a_million_slots_are_refused_by_their_length() -> None:
    failure = failure_of(hostile.slots(1_000_000))
    assert type(failure) is Invalid
    assert "longer than" in failure.reason


def test_slots_are_refused_in_proportion_to_their_number() -> None:
    made = {number: hostile.slots(number) for number in (20_000, 80_000)}
    assert "at most 1000 are possible" in failure_of(made[80_000]).reason
    assert grows_linearly(lambda number: failure_of(made[number]), 20_000)


def test_members_of_a_gzip_file_are_read_in_proportion_to_their_number() -> None:
    empty = gzip.compress(b"")
    made = {n: gzip.compress(body(AttrNames={"0": "a"})) + empty * n for n in (12_500, 50_000)}

    def read(number: int) -> None:
        assert judge(Reply(200, None, "gzip", made[number])).names == {0: AttrName("a")}

    assert grows_linearly(read, 12_500)


@pytest.mark.parametrize(
    ("status", "raw", "kind", "code"),
    [
        pytest.param(200, body(ErrorCode=70009), Rejected, 70009, id="permanent_code"),
        pytest.param(200, body(ErrorCode=91000), Unavailable, 91000, id="passing_code"),
        pytest.param(200, body(ErrorCode=60028), Unavailable, 60028, id="limit"),
        pytest.param(200, body(ErrorCode=70050), Rejected, 70050, id="lock_out"),
        pytest.param(200, body(ErrorCode=70347), Rejected, 70347, id="unknown_of_70xxx"),
        pytest.param(400, body(ErrorCode=70009), Rejected, 70009, id="code_under_400"),
        pytest.param(400, body(), Unavailable, 0, id="ok_under_400"),
        pytest.param(404, b"<html>", Unavailable, None, id="html_404"),
        pytest.param(407, b"", Unavailable, None, id="proxy_wants_a_password"),
        pytest.param(408, b"", Unavailable, None, id="408"),
        pytest.param(429, body(ErrorCode=70009), Unavailable, 70009, id="429"),
        pytest.param(502, b"<html>", Unavailable, None, id="html_502"),
        pytest.param(503, body(ErrorCode=70009), Unavailable, 70009, id="code_under_503"),
        pytest.param(500, body(AttrNames={"0": "a"}), Unavailable, 0, id="names_under_500"),
        pytest.param(302, body(), Invalid, None, id="redirect"),
        pytest.param(304, b"", Invalid, None, id="not_modified"),
        pytest.param(204, b"", Invalid, None, id="no_content"),
        pytest.param(206, body(), Invalid, None, id="partial_content"),
    ],
)
def test_what_a_status_and_a_body_lead_to(
    status: int, raw: bytes, kind: type[PollFailed], code: int | None
) -> None:
    failure = failure_of(raw, status)
    assert (type(failure), failure.error_code) == (kind, code)
    assert failure.error_info


def test_a_failure_has_the_vendors_words_and_ours() -> None:
    failure = failure_of(body(ErrorCode=70009, ErrorInfo="sig\x1b[31m check\nfailed", X=1))
    assert failure.error_info == "sig\\x1b[31m check\nfailed"
    assert "70009" in failure.reason
    assert "sig\\x1b[31m check failed" in failure.reason
    assert "another app's" in failure.reason
    assert failure_of(body(ErrorCode=70032, ErrorInfo="")).error_info


def test_every_hostile_answer_ends_in_one_documented_class() -> None:
    chained = False
    tally = {"ok": 0, "rejected": 0, "unavailable": 0, "invalid": 0}
    for raw in itertools.islice(hostile.bodies(seed=1), 4_000):
        try:
            names = parse(raw)
        except PollFailed as failure:
            tally[failure.outcome] += 1
            chained |= failure.__context__ is not None
            stored = f"{failure}{failure.error_info}"
        else:
            tally["ok"] += 1
            assert all(0 <= slot <= 999 for slot in names)
            stored = "".join(name.name for name in names.values())
        kept = safe_text(raw.decode("utf-8", "backslashreplace"), secrets=[KEY])
        (stored + kept).encode()  # no lone surrogate
        assert "\x00" not in stored + kept
    for outcome, number in tally.items():
        assert number
        count(hostile.PARSED, outcome, number)
    assert not chained


SIG = user_sig(1400000000, KEY, "administrator", now=1700000000, ttl=86400)
PACKED = base64.b64decode(SIG.translate(str.maketrans("*-_", "+/=")))


def lower_percent(secret: str) -> str:
    quoted = urllib.parse.quote(secret, safe="")
    return re.sub("%[0-9A-F]{2}", lambda escape: escape.group().lower(), quoted)


def json_escapes(secret: str) -> str:
    units = secret.encode("utf-16-be").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


@pytest.mark.parametrize(
    "secret", [KEY, SIG, 'k"ey/+*=&\\é🙂0123456789'], ids=["key", "sig", "odd"]
)
@pytest.mark.parametrize(
    "spell",
    [
        pytest.param(lambda s: s, id="raw"),
        pytest.param(lambda s: urllib.parse.quote(s, safe=""), id="percent"),
        pytest.param(lower_percent, id="percent_lower"),
        pytest.param(lambda s: "".join(f"%{b:02x}" for b in s.encode()), id="percent_all"),
        pytest.param(lambda s: urllib.parse.quote(urllib.parse.quote(s, safe="")), id="twice"),
        pytest.param(lambda s: json.dumps(s)[1:-1], id="json"),
        pytest.param(json_escapes, id="json_all"),
        pytest.param(lambda s: s.replace("/", "\\/"), id="json_slash"),
        pytest.param(lambda s: "".join(f"&#{ord(c)};" for c in s), id="html"),
        pytest.param(lambda s: base64.b64encode(s.encode()).decode(), id="base64"),
        pytest.param(lambda s: base64.urlsafe_b64encode(s.encode()).decode(), id="base64_url"),
        pytest.param(lambda s: "\x00".join(s), id="utf16"),
    ],
)
def test_a_secret_is_removed_in_every_spelling(secret: str, spell: Any) -> None:
    text = safe_text(f"before {spell(secret)} after", secrets=(secret,))
    assert text == f"before {REDACTED} after"


#: In a text it is cut out for its look; names are kept exactly, whatever they look like.
NOT_IN_A_NAME = {"rot13"}


def pieces(secret: str, length: int = 20) -> set[str]:
    """Of a secret in every alphabet, forwards and backwards; letters and digits in one case."""
    raw = secret.encode()
    packed = [zlib.compress(raw), gzip.compress(raw, mtime=0)]
    spelt = [spell(secret) for spell in hostile.SPELLINGS.values()] + [p.hex() for p in packed]
    bare = ["".join(filter(str.isalnum, each.lower())) for each in [secret, *spelt]]
    return {b[at : at + length] for b in bare for at in range(len(b) - length + 1)}


@pytest.mark.parametrize("secret", [KEY, SIG], ids=["key", "sig"])
@pytest.mark.parametrize("spell", hostile.SPELLINGS.values(), ids=hostile.SPELLINGS)
def test_no_piece_of_a_secret_is_kept_however_it_is_spelt(spell: Any, secret: str) -> None:
    text = safe_text(f"bad request: {spell(secret)}", secrets=(KEY, SIG))
    bare = "".join(filter(str.isalnum, text.lower()))
    assert not {piece for piece in pieces(secret) if piece in bare}
    assert REDACTED in text


@pytest.mark.parametrize("secret", [KEY, SIG], ids=["key", "sig"])
@pytest.mark.parametrize(
    "spell", [spell for name, spell in hostile.SPELLINGS.items() if name not in NOT_IN_A_NAME]
)
def test_no_name_that_spells_a_secret_is_recorded(spell: Any, secret: str) -> None:
    raw = body(AttrNames={"0": spell(secret)})
    with pytest.raises(Invalid) as caught:
        judge(Reply(200, None, "", raw), secrets=(KEY, SIG))
    assert spell(secret) not in str(caught.value.answer)


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        pytest.param(f"GET /v4?usersig={SIG}&identifier=a", SIG, id="query"),
        pytest.param(f"x {SIG} y", SIG, id="bare"),
        pytest.param(f"AeJ{SIG}", SIG, id="after_a_false_start"),
        pytest.param(urllib.parse.quote(SIG, safe=""), SIG[:80], id="percent_encoded"),
        pytest.param(f"x {SIG[:120]} y", SIG[:120], id="cut_off"),
        pytest.param("usersig=not-even-one", "not-even-one", id="any_value"),
        pytest.param("UserSig%3Dabcdef%26x", "abcdef", id="encoded_query"),
        pytest.param('{"usersig":"abcdef"}', "abcdef", id="json_field"),
        pytest.param(
            json.dumps({"TLS.sig": "LvA7d/Iw7gSsnskvVzBDPOCCDbuNCw4GHwTC0bip+B4="}),
            "LvA7d/Iw7gSsnskvVzBDPOCCDbuNCw4GHwTC0bip+B4",
            id="unpacked",
        ),
    ],
)
def test_anything_like_a_usersig_is_removed_unasked(text: str, gone: str) -> None:
    redacted = redact(text, secrets=())
    assert gone not in redacted
    assert REDACTED in redacted


def test_the_bytes_inside_a_usersig_are_removed() -> None:
    text = safe_text("x " + PACKED.decode("utf-8", "backslashreplace") + " y", secrets=(SIG,))
    assert text == f"x {REDACTED} y"


@pytest.mark.parametrize(
    "spelling",
    ["hex", "base32", "reversed", "lower", "upper", "deflated_base64", "without_its_head", "rot13"],
)
def test_a_long_run_that_looks_random_is_not_kept_even_if_nobody_knows_it(spelling: str) -> None:
    unknown = hostile.SPELLINGS[spelling](SIG)
    assert safe_text(f"bad: {unknown} end", secrets=()) == f"bad: {REDACTED} end"


@pytest.mark.parametrize(
    "text",
    [
        "/v4/all_member_push/im_get_attr_name failed on console.tim.qq.com, code 70009",
        "RequestId 550e8400-e29b-41d4-a716-446655440000",
        "MembershipLevelOfTheUserAccountInTheShop",
        "SDKAppID 1400000001 of 12 apps, 3 of 5 checks at 1700000000, code 70009 or 70050",
        "a" * 300,
        "9" * 300,
        "会员等级" * 50,
    ],
)
def test_what_does_not_look_random_is_kept(text: str) -> None:
    assert safe_text(text, secrets=(KEY, SIG)) == text


@pytest.mark.parametrize("before", range(1900, 2010, 7))
def test_a_clip_leaves_no_half_of_a_secret(before: int) -> None:
    text = safe_text("x" * before + SIG + KEY + "tail", secrets=(KEY, SIG))
    assert len(text) <= 2000
    assert SIG[:8] not in text
    assert KEY[:8] not in text


def test_a_secret_at_the_end_of_what_is_looked_at_leaves_no_half() -> None:
    # Many secrets before it shrink the text, so that its far end comes into the window.
    for shift in range(0, 600, 13):
        filled = "x" * shift + (KEY + " ") * 1000 + SIG + KEY
        text = safe_text(filled + "y" * 1000, secrets=(KEY, SIG), limit=10**6)
        assert SIG[:8] not in text
        assert KEY[:8] not in text


def test_ordinary_text_is_left_alone() -> None:
    text = '{"AttrNames":{"0":"eJ会员","1":"100% \\"sure\\""},"ErrorInfo":"&lt;ok&gt;"}\n\t'
    assert safe_text(text, secrets=(KEY, SIG)) == text


def test_live_characters_are_spelt_out() -> None:
    live = "a\x00b\x1b[2Jc\ud800d\u202ee\u2028f\r\n\tg"
    assert inert(live) == "a\\x00b\\x1b[2Jc\\ud800d\\u202ee\\u2028f\\x0d\n\tg"


@pytest.mark.parametrize(
    "piece", ["eJ", "eJ%41", "\\", "&#", "usersig=", "a1 ", "\x80", "TLS.sig:"]
)
def test_a_hostile_text_is_redacted_in_proportion_to_its_length(piece: str) -> None:
    # A quarter of what is ever looked at: enough to see it, and a fault does not take minutes.
    def work(length: int) -> None:
        safe_text(piece * (length // len(piece)), secrets=(KEY, SIG))

    assert grows_linearly(work, 4 * 1024)


def test_of_a_text_without_end_only_its_beginning_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []
    redacting = redact

    def watch(text: str, *, secrets: tuple[str, ...]) -> str:
        looked_at.append(len(text))
        return redacting(text, secrets=secrets)

    monkeypatch.setattr("im_attr_audit.tencent.redact.redact", watch)
    for length in (1000, 64 * 1024, 10**6):
        safe_text("x" * length, secrets=(KEY, SIG))
    assert looked_at == [1000, 64 * 1024, 64 * 1024]


def test_work_that_grows_with_the_square_is_told_from_work_in_proportion() -> None:
    assert grows_linearly(lambda number: sum(range(number)), 25_000)
    assert not grows_linearly(lambda number: [sum(range(number)) for _ in range(number)], 100)
