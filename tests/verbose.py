"""A process that says everything it can: reads and syncs with every log wide open.

Its orders come on standard input: {"url", "targets", "plant"}. Every error is logged, printed,
taken apart and grouped, as a careless program around ours would do it.
"""
# ruff: noqa: T201

from __future__ import annotations

import base64
import http.client
import json
import logging
import pickle
import sys
import traceback
import urllib.parse
from typing import Any

import urllib3
from im_attr_audit.errors import AttrAuditError
from im_attr_audit.messages.report import render
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.publication import events_by_region
from im_attr_audit.record.runs import read_run
from im_attr_audit.sync import sync_apps
from im_attr_audit.tencent.client import Pool, TencentImClient
from im_attr_audit.tencent.target import Target, Unresolved
from im_attr_audit.tencent.usersig import user_sig
from sqlalchemy import text
from sqlalchemy.engine import make_url

from tests.rig import target_of

log = logging.getLogger("tests.verbose")


def _open_every_log() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    for name in ("urllib3", "requests", "sqlalchemy", "im_attr_audit", "http.client"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    urllib3.add_stderr_logger()
    http.client.HTTPConnection.debuglevel = 2
    http.client.HTTPResponse.debuglevel = 2


def _say_all_about(error: BaseException) -> None:
    log.exception("it failed", exc_info=error)
    print(repr(error), str(error), error.args, vars(error))
    print(repr(pickle.dumps([repr(error), vars(error)])))
    seen = [error, error.__cause__, error.__context__]
    print([repr(each) for each in seen])
    group = ExceptionGroup("several", [error]) if isinstance(error, Exception) else error
    traceback.print_exception(group)
    try:
        raise RuntimeError("around it") from group
    except RuntimeError:
        log.debug("chained", exc_info=True)


def _plant(targets: list[Target], engine: Any) -> None:
    """What a careless line would write; the scan has to find it."""
    target = targets[0]
    sig = user_sig(
        target.sdk_app_id, target.secret_key, target.identifier, now=1_800_000_000, ttl=86400
    )
    log.debug("POST /v4?usersig=%s", urllib.parse.quote(sig))
    print(f"key={target.secret_key}")
    print(base64.b64encode(target.secret_key.encode()).decode())
    with engine.begin() as connection:
        connection.execute(
            text("update attr_audit.app set conn_id = :leak"),
            {"leak": f"run with {sig}"},
        )


def main() -> None:
    order = json.load(sys.stdin)
    _open_every_log()
    engine = create_audit_engine(make_url(order["url"]))
    targets: list[Target | Unresolved] = []
    for conn_id, connection in order["targets"].items():
        try:
            targets.append(target_of(conn_id, connection))
        except AttrAuditError as error:
            _say_all_about(error)
            region = getattr(error, "region", None)
            number = getattr(error, "sdk_app_id", None)
            targets.append(Unresolved(conn_id, error, region, number))  # type: ignore[arg-type]
    sound = [target for target in targets if isinstance(target, Target)]
    with Pool() as pool:
        for target in sound:
            client = TencentImClient(target, pool, on_signature=lambda _: None)
            print(repr(target), repr(client), repr(pool), str(target))
            try:
                print(repr(client.get_attr_names()))
            except AttrAuditError as error:
                _say_all_about(error)
    for run in ("one", "two"):
        recorded = sync_apps(engine, targets, dag_run_id=run, try_number=1, confirm_seconds=0)
        print(recorded)
        facts = read_run(engine, run)
        print(render(facts), json.dumps(events_by_region(run, facts.changes)))
    if order["plant"]:
        _plant(sound, engine)
    outcomes = sorted({each.outcome for each in recorded})
    print(f"outcomes: {' '.join(outcomes)}")


if __name__ == "__main__":
    main()
