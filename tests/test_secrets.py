"""Nothing that anybody could read holds a key or a UserSig, however much goes wrong."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from im_attr_audit.tencent.usersig import user_sig

from launch.processes import wait_until
from simulator.control import Simulator
from simulator.spellings import SPELLINGS
from tests.conftest import WRITER, AuditDb
from tests.counts import count
from tests.leaks import Secrets, scan, scan_command_lines, scan_database, scan_files

ROOT = Path(__file__).resolve().parents[1]
TITLE = "scanned for secrets"
REGIONS = ("china", "frankfurt")
KEY = "5bd2850fff3ecb11d7c805251c51ee463a25727bddc2385f3fa8bfee1bb93b5e"
SIG = user_sig(1400000000, KEY, "administrator", now=1_800_000_000, ttl=86400)

_QUOTED = [b"%USERSIG%", b"%URL%", b'<a href="https://x%URL%">%USERSIG%</a>']
#: Everything that can go wrong, a vendor and gateways that quote the request back included.
FAULTS: list[dict[str, Any]] = [
    {"kind": "ok"},
    {"kind": "bad_gateway"},
    {"kind": "drop"},
    {"kind": "drop", "reset": True},
    {"kind": "half"},
    {"kind": "half", "where": "headers"},
    {"kind": "hang"},
    {"kind": "drip", "interval": 0.2},
    {"kind": "close_after"},
    {"kind": "redirect"},
    {"kind": "oversize", "size": 1_200_000},
    {"kind": "gzip_bomb", "size": 2_000_000},
    *({"kind": "code", "code": code} for code in (60004, 60007, 70001, 70003, 70009, 70050, 91000)),
    *(
        {"kind": "code", "code": code, "info": quoted.decode()}
        for code in (70001, 70009, 91000)
        for quoted in _QUOTED
    ),
    *(
        {"kind": "raw", "status": status, "body": quoted}
        for status in (200, 302, 403, 502)
        for quoted in _QUOTED
    ),
    {"kind": "raw", "body": b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"0":"%USERSIG%"}}'},
    {"kind": "raw", "body": b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{"%USERSIG%":"a"}}'},
    {"kind": "raw", "body": b'{"ActionStatus":"OK","ErrorCode":0,"AttrNames":{},"URL":"%URL%"}'},
    {"kind": "raw", "body": b'{"ActionStatus":"%URL%","ErrorCode":"%USERSIG%"}'},
    {"kind": "raw", "body": b"x" * 1990 + b"%USERSIG%"},
    {"kind": "raw", "body": b"\xff\xfe%USERSIG%\x00"},
    *(
        {**fault, "spelling": spelling}
        for spelling in SPELLINGS
        for fault in (
            {"kind": "code", "code": 70003, "info": "bad signature %USERSIG%, check it"},
            {"kind": "raw", "status": 502, "body": b"<p>no route to /?usersig=%USERSIG%</p>"},
            {"kind": "raw", "body": b'{"ErrorCode":0,"Echo":"%USERSIG%"}'},
        )
    ),
]


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    with Simulator.start(tmp_path / "simulator", regions=REGIONS, lasting=False) as running:
        yield running


def connections(simulator: Simulator) -> dict[str, dict[str, Any]]:
    """One app for each fault, and connections that are wrong in every way that can be written."""
    made: dict[str, dict[str, Any]] = {}
    for number, fault in enumerate(FAULTS, start=1_400_000_001):
        region = REGIONS[number % 2]
        simulator.add_app(region, number, {0: "sex", 1: "city"}, rate_limit=None)
        simulator.fault(region=region, app=number, times=None, **fault)
        timeout = 0.3 if fault["kind"] in ("hang", "drip") else None
        fields = simulator.connection_json(region, number, timeout=timeout)
        made[f"im_{fault['kind']}_{number}"] = fields
    good = made[f"im_ok_{1_400_000_001}"]

    def wrong(name: str, number: int, **changed: Any) -> None:
        extra = {**good["extra"], **changed.pop("extra", {}), "sdk_app_id": number}
        made[f"wrong_{name}"] = {**good, **changed, "extra": extra}

    key = good["password"]
    simulator.add_app(REGIONS[1], 1_400_100_001, {0: "sex"})
    wrong("key", 1_400_100_001, password=key[::-1])
    wrong("port", 1_400_100_002, port=9)
    wrong("authority", 1_400_100_003, extra={"ca_bundle": None})
    wrong("name", 1_400_100_004, host="no-such-host.invalid")
    wrong("host_with_key", 1_400_100_005, host=f"https://user:{key}@127.0.0.1")
    wrong("path_with_key", 1_400_100_006, host=f"https://127.0.0.1/{key}?usersig={SIG}")
    wrong("plain_http", 1_400_100_007, host="http://example.org")
    wrong("region", 1_400_100_008, extra={"region": key})
    wrong("region_with_host", 1_400_100_012, extra={"region": key}, host="https://127.0.0.1")
    wrong("group", 1_400_100_013, extra={"app_group": f"group {key}"})
    wrong("host", 1_400_100_014, host=key)
    wrong("extra", 1_400_100_009, extra={"api": key, "timeout": key, "usersig_ttl": SIG})
    wrong("login", 1_400_100_010, login=key)
    wrong("password", 1_400_100_011, password=f" {key}\n")
    return made


def run_verbosely(
    simulator: Simulator, db: AuditDb, written: Path, *, plant: bool = False
) -> Secrets:
    """The whole matrix in a process that says everything; the secrets that it had."""
    made = connections(simulator)
    order = {"url": db.url(WRITER), "targets": made, "plant": plant}
    written.mkdir()
    search = [str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")]
    with (written / "stdout").open("wb") as out, (written / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", "-m", "tests.verbose"],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=err,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, search))},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        passwords = {f"password of {WRITER}": db.server.password(WRITER)}
        secrets = Secrets(
            {
                **passwords,
                **{f"key of {name}": each["password"].strip() for name, each in made.items()},
            }
        )
        found: list[str] = []
        seen: set[str] = set()
        while not wait_until(lambda: process.poll() is not None, seconds=0.2):
            found += scan_command_lines(secrets, seen)
        assert process.returncode == 0, (written / "stderr").read_text()[-3000:]
        secrets = replace(secrets, signatures=tuple(simulator.signatures()))
    assert found == []
    said = (written / "stdout").read_text(errors="replace")
    assert "outcomes: invalid misconfigured ok rejected unavailable" in said
    noise = (written / "stderr").read_text(errors="replace")
    # The logs were as wide open as they can be.
    for sign in ("DEBUG:urllib3", "INFO:sqlalchemy.engine", "insert into attr_audit.poll"):
        assert sign in noise
    return secrets


def scan_everything(db: AuditDb, written: Path, simulator_dir: Path, secrets: Secrets) -> list[str]:
    found = scan_files(
        [written, simulator_dir, db.server.log],
        secrets,
        except_for=[simulator_dir / "keys.json"],
    )
    in_tables, tables = scan_database(db.server, db.name, secrets)
    size = sum(path.stat().st_size for path in written.iterdir())
    count(TITLE, "bytes written by plain Python at DEBUG", size)
    count(TITLE, "tables after plain Python", tables)
    return found + in_tables


def test_plain_python_at_debug_writes_no_secret_whatever_goes_wrong(
    simulator: Simulator, audit_db: AuditDb, tmp_path: Path
) -> None:
    with audit_db.server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"alter role {WRITER} set log_statement = 'all'")
    try:
        secrets = run_verbosely(simulator, audit_db, tmp_path / "written")
    finally:
        with audit_db.server.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"alter role {WRITER} reset log_statement")
    found = scan_everything(audit_db, tmp_path / "written", tmp_path / "simulator", secrets)
    count(TITLE, "faults under plain Python", len(FAULTS))
    count(TITLE, "hits", len(found))
    assert found == []


def test_the_same_scan_finds_every_leak_that_is_planted(
    simulator: Simulator, audit_db: AuditDb, tmp_path: Path
) -> None:
    secrets = run_verbosely(simulator, audit_db, tmp_path / "written", plant=True)
    found = scan_everything(audit_db, tmp_path / "written", tmp_path / "simulator", secrets)
    assert {hit.rsplit(" ", 1)[-1] for hit in found} == {
        "written/stderr",
        "written/stdout",
        f"{audit_db.name}.attr_audit.app",
    }
    # One that happens to hold no "*" is the same percent-encoded; the spellings have a test below.
    assert any("UserSig (" in hit and hit.endswith("written/stderr") for hit in found)
    assert any("in base64" in hit or "inside base64" in hit for hit in found)
    assert any("key of im_ok" in hit and "(as it is)" in hit for hit in found)
    count(TITLE, "planted leaks found", len(found))


@pytest.mark.parametrize(
    "leak",
    [
        KEY,
        KEY[20:50],
        KEY.upper().lower(),
        SIG,
        SIG[:100],
        urllib.parse.quote(SIG, safe=""),
        urllib.parse.quote(urllib.parse.quote(SIG, safe=""), safe=""),
        "".join(f"%{byte:02x}" for byte in KEY.encode()),
        base64.b64encode(KEY.encode()).decode(),
        base64.urlsafe_b64encode(f"x{KEY}".encode()).decode(),
        base64.b64encode(f"https://example.org/?usersig={SIG}".encode()).decode(),
        json.dumps({"usersig": SIG}),
        "".join(f"\\u{ord(char):04x}" for char in KEY),
        KEY.encode("utf-16").decode("latin-1"),
        KEY.encode().hex(),
        KEY[::-1],
    ],
    ids=range(16),
)
def test_the_scan_knows_a_secret_in_every_spelling(leak: str) -> None:
    blob = f"2026-11-22 DEBUG before {leak} after\n".encode("latin-1")
    assert scan(blob, Secrets({"the key": KEY}), "here")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_scan_finds_a_trace_of_a_signature_in_every_spelling(spelling: str) -> None:
    blob = f"DEBUG before {SPELLINGS[spelling](SIG)} after\n".encode()
    assert scan(blob, Secrets({"the key": KEY}, (SIG,)), "here")


def test_the_scan_is_not_alarmed_by_what_is_not_a_secret() -> None:
    noise = (
        b'{"usersig":"[redacted]","AttrNames":{"0":"eJxabcdefghijklmnopqrstuvwxyz0123456789ABCDE"}}'
    )
    assert scan(noise + KEY[:15].encode(), Secrets({"the key": KEY}), "here") == []
