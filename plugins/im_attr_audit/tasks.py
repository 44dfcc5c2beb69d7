"""What the DAG's tasks do. Here, and only here, our errors become Airflow's.

Heavy imports are inside the functions: every task process and every parse of the DAG file would
pay for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from im_attr_audit import settings
from im_attr_audit.apps import AppKey
from im_attr_audit.errors import LockTimeout, SecretsUnavailable, UnsuitableDatabase
from im_attr_audit.settings import BadSetting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from im_attr_audit.apps import AppKey
    from im_attr_audit.tencent.target import Target, Unresolved

log = logging.getLogger(__name__)

CHANGES = Asset("im-attr-audit/changes")
CHANGES_ALIAS = AssetAlias("im-attr-audit-changes")

#: Apps in one mapped task. A mapping may have 1,024 instances, so this carries 250,000 apps.
APPS_PER_TASK = 250
#: What the first reads of one task may take where every app hangs, in seconds: a second round of
#: them fits into the task's half hour too.
READS_AT_MOST = 600
#: Connections that one task reads with Airflow's masker being told of each. What that costs grows
#: with their square: half a second for these, minutes for a thousand.
MASKED_AT_MOST = 50


@contextlib.contextmanager
def _as_airflow_errors() -> Iterator[None]:
    """Turn what has one known cause into Airflow's errors: a sentence, and a retry if it helps."""
    try:
        yield
    except (BadSetting, UnsuitableDatabase) as error:
        raise AirflowFailException(str(error)) from None
    except (LockTimeout, SecretsUnavailable) as error:
        raise AirflowException(str(error)) from None


@_as_airflow_errors()
def plan(conn_ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """The mapped `sync` instances: ``{"label", "conn_ids", "problems"}`` each, one region's apps.

    ``conn_ids``: the DAG param, to limit one run. ``problems`` are the connections that are listed
    in a way that forbids polling them, with the reason. An unrestricted run also retires apps that
    are no longer listed. Raises AirflowFailException where the Variable or the param is no list of
    connection ids.
    """
    from im_attr_audit.record.runs import prepare_run, retire_apps
    from im_attr_audit.targets import resolve, with_known_apps

    listed = _listed_conn_ids()
    wanted = set(listed if conn_ids is None else conn_ids)
    if unknown := wanted - set(listed):
        raise AirflowFailException(
            f"conn_ids names {', '.join(sorted(unknown))}, which the Variable {settings.CONN_IDS} "
            f"does not list. Add it there, or leave it out."
        )

    masked = len(listed) <= MASKED_AT_MOST
    targets = resolve(listed, masked=masked)
    problems = _doubly_listed(listed, targets)
    engine = audit_engine()
    try:
        prepare_run(engine)
        if conn_ids is None:
            apps = {conn_id: target.app for conn_id, target in targets.items()}
            for (region, sdk_app_id), retired in retire_apps(
                engine,
                listed=[app for app in apps.values() if app],
                unresolved=[conn_id for conn_id, app in apps.items() if not app],
            ):
                log.info(
                    "%s/%s is %s", region, sdk_app_id, "retired" if retired else "listed again"
                )
        targets = with_known_apps(engine, targets)
    finally:
        engine.dispose()

    by_region: dict[str, list[str]] = defaultdict(list)
    for conn_id, target in targets.items():
        if conn_id in wanted:
            by_region[target.region or "misconfigured"].append(conn_id)
    return [
        instance
        for region, ids in sorted(by_region.items())
        for instance in _split(region, ids, _size([targets[i] for i in ids]), problems)
    ]


@_as_airflow_errors()
def sync(
    conn_ids: Sequence[str],
    problems: Mapping[str, str],
    *,
    dag_run_id: str,
    begun_at: datetime | None,
    ti: Any,
) -> dict[str, int]:
    """Poll and record one instance's apps; how many ended in which outcome.

    ``begun_at``: when the DAG run began, by Airflow's clock.
    A retry polls only what has no final outcome in this round; clearing the task begins a new one.
    Raises AirflowException (to be retried) if any app is `unavailable` or `unstable`, else
    AirflowFailException if any failed.
    """
    from im_attr_audit.errors import Misconfigured, Unavailable
    from im_attr_audit.outcomes import FAILED, FINAL
    from im_attr_audit.record.runs import read_finished
    from im_attr_audit.sync import sync_apps
    from im_attr_audit.targets import resolve, with_known_apps
    from im_attr_audit.tencent.target import Unresolved

    confirm_seconds = settings.CONFIRM_SECONDS.read()
    # Clearing sets max_tries to the tries there were plus the retries that are granted again.
    first_try = ti.max_tries - (ti.task.retries or 0) + 1
    engine = audit_engine()
    try:
        finished = read_finished(
            engine,
            dag_run_id=dag_run_id,
            first_try=first_try,
            conn_ids=conn_ids,
            begun_at=begun_at,
        )
        asked = [conn_id for conn_id in conn_ids if conn_id not in finished]
        targets = resolve(asked, masked=len(conn_ids) <= MASKED_AT_MOST)
        for conn_id in problems.keys() & targets.keys():
            app = targets[conn_id].app or (None, None)
            targets[conn_id] = Unresolved(conn_id, Misconfigured(problems[conn_id]), *app)
        targets = with_known_apps(engine, targets)
        # A poll needs an app unless it is misconfigured, and that outcome is final: a connection
        # that never polled waits for the last try.
        unknown = {
            conn_id: str(target.failure)
            for conn_id, target in targets.items()
            if isinstance(target, Unresolved)
            and target.app is None
            and isinstance(target.failure, Unavailable)
        }
        for conn_id, why in unknown.items():
            del targets[conn_id]
            if ti.try_number > ti.max_tries:
                targets[conn_id] = Unresolved(conn_id, Misconfigured(why))
        recorded = sync_apps(
            engine,
            [*targets.values()],
            dag_run_id=dag_run_id,
            try_number=ti.try_number,
            confirm_seconds=confirm_seconds,
        )
    finally:
        engine.dispose()

    outcomes: dict[str, tuple[str, str | None]] = {
        **finished,
        **{conn_id: (Unavailable.outcome, why) for conn_id, why in unknown.items()},
        **{poll.conn_id: (poll.outcome, poll.error_info) for poll in recorded},
    }
    counts: dict[str, int] = defaultdict(int)
    failed: dict[str, str] = {}
    for conn_id, (outcome, error_info) in outcomes.items():
        counts[outcome] += 1
        if outcome in FAILED:
            failed[conn_id] = outcome
            log.error("%s: %s: %s", conn_id, outcome, error_info)
    if failed:
        text = "; ".join(f"{conn_id} {outcome}" for conn_id, outcome in list(failed.items())[:20])
        if len(failed) > 20:
            text += f"; and {len(failed) - 20} more"
        if not FINAL.issuperset(failed.values()):
            raise AirflowException(f"not recorded, will be tried again: {text}")
        raise AirflowFailException(f"not recorded: {text}")
    return dict(counts)


@_as_airflow_errors()
def publish(*, dag_run_id: str, outlet_events: Any) -> int:
    """Emit one asset event per region in which this run recorded something; how many."""
    from im_attr_audit.record.runs import events_by_region, read_run

    engine = audit_engine()
    try:
        events = events_by_region(read_run(engine, dag_run_id))
    finally:
        engine.dispose()
    for event in events:
        outlet_events[CHANGES_ALIAS].add(CHANGES, extra=event)
    return len(events)


@_as_airflow_errors()
def report(
    instances: Sequence[Mapping[str, Any]] | None, *, dag_run_id: str, states: Mapping[str, Any]
) -> None:
    """Log the run's table and send the messages; raise AirflowFailException where anything failed.

    ``states`` are those of the tasks before it: an instance that died without recording anything
    is a failure too, and so is an app of which this run has no poll.
    """
    from im_attr_audit.record.runs import read_run
    from im_attr_audit.report import render

    engine = audit_engine()
    try:
        run = read_run(engine, dag_run_id)
        log.info("%s", render(run))
        unnoted = _tell(engine, dag_run_id)
    finally:
        engine.dispose()

    wrong = [f"{poll.conn_id} {poll.outcome}" for poll in run.polls if poll.failed]
    polled = {poll.conn_id for poll in run.polls}
    expected = [conn_id for instance in instances or () for conn_id in instance["conn_ids"]]
    wrong += [f"{conn_id} not polled" for conn_id in expected if conn_id not in polled]
    wrong += [
        f"task {task} {state}"
        for task, state in sorted(states.items())
        if state not in ("success", "skipped", "removed") and not task.startswith("report")
    ]
    if instances is None:
        wrong.append("no plan: see the log of the plan task")
    wrong += unnoted
    if wrong:
        raise AirflowFailException("this run failed: " + "; ".join(wrong))


def _tell(engine: Engine, dag_run_id: str) -> list[str]:
    """Decide who is not seen any more, and send what waits; what of it went wrong with *us*.

    A messenger that is down is no failure of the run: its messages wait.
    """
    from im_attr_audit.notify import send_waiting
    from im_attr_audit.record.notifications import note_gaps

    try:
        note_gaps(engine, dag_run_id=dag_run_id, stale_after=settings.stale_after())
        send_waiting(engine)
    except (BadSetting, LockTimeout) as error:
        return [str(error)]
    except Exception as error:
        # Whatever it is, it must not hide what else this run has to say.
        log.exception("Messages could not be read or marked.")
        return [f"messages could not be read or marked ({type(error).__name__})"]
    return []


def audit_engine() -> Engine:
    """The audit database as the writer."""
    from im_attr_audit.hook import hide_secrets_in_debug_log
    from im_attr_audit.lookup import find_connection
    from im_attr_audit.record.engine import engine_of_connection

    hide_secrets_in_debug_log()
    connection = find_connection(settings.AUDIT_DB)
    if connection is None:
        raise AirflowFailException(
            f"The connection {settings.AUDIT_DB} is not defined: create it (type postgres, login "
            "attr_audit_writer)."
        )
    return engine_of_connection(connection)


def _listed_conn_ids() -> list[str]:
    # Read without deserialize_json: Airflow reports invalid JSON as a Variable that does not exist.
    given = Variable.get(settings.CONN_IDS, default=None)
    if given is None:
        from im_attr_audit.lookup import ask_for_variable

        given = ask_for_variable(settings.CONN_IDS)
    return settings.parse_conn_ids(given)


def _doubly_listed(
    listed: Sequence[str], targets: Mapping[str, Target | Unresolved]
) -> dict[str, str]:
    """Connections that name the same app, or are listed twice: neither is polled."""
    by_app: dict[AppKey, list[str]] = defaultdict(list)
    for conn_id in listed:
        if app := targets[conn_id].app:
            by_app[app].append(conn_id)
    return {
        conn_id: f"app {app.address} is listed more than once in {settings.CONN_IDS}: by "
        f"{', '.join(conn_ids)}. Keep one of them."
        for app, conn_ids in by_app.items()
        if len(conn_ids) > 1
        for conn_id in conn_ids
    }


def _size(targets: Sequence[Target | Unresolved]) -> int:
    """How many of these apps one task may have: all of them may hang for their whole time-out."""
    from im_attr_audit.sync import THREADS

    longest = max((getattr(target, "timeout", 0.0) for target in targets), default=0.0)
    return min(APPS_PER_TASK, int(THREADS * READS_AT_MOST / max(longest, 1.0)))


def _split(
    region: str, ids: list[str], size: int, problems: Mapping[str, str]
) -> list[dict[str, Any]]:
    parts = -(-len(ids) // size)
    size = -(-len(ids) // parts)
    instances = []
    for part in range(parts):
        mine = ids[part * size : (part + 1) * size]
        instances.append(
            {
                "label": region if parts == 1 else f"{region} ({part + 1} of {parts})",
                "conn_ids": mine,
                "problems": {conn_id: problems[conn_id] for conn_id in mine if conn_id in problems},
            }
        )
    return instances
