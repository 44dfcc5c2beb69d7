"""What the DAG's tasks do. Here, and only here, our errors become Airflow's.

Heavy imports are inside the functions: every task process and every parse of the DAG file would
pay for them.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias, Variable
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from im_attr_audit import settings
from im_attr_audit.errors import LockTimeout, SecretsUnavailable, UnsuitableDatabase
from im_attr_audit.frames import without_frames
from im_attr_audit.settings import DAG_ID, BadSetting

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from im_attr_audit.messages.report import Failure
    from im_attr_audit.tencent.target import Target, Unresolved

log = logging.getLogger(__name__)

CHANGES = Asset("im-attr-audit/changes")
CHANGES_ALIAS = AssetAlias("im-attr-audit-changes")

#: The instance of `sync` that reads declared names again; it polls nothing.
_DECLARED_NAMES: dict[str, Any] = {"label": "declared names", "conn_ids": [], "problems": {}}
#: Connections that one task reads and adds to Airflow's masker. The cost grows with their
#: square: half a second for these, minutes for a thousand.
MASKED_AT_MOST = 50


@contextlib.contextmanager
def as_airflow_errors() -> Iterator[None]:
    """Turn what has one known cause into Airflow's errors: a sentence, and a retry if it helps."""
    try:
        yield
    except (BadSetting, UnsuitableDatabase) as error:
        raise AirflowFailException(str(error)) from None
    except (LockTimeout, SecretsUnavailable) as error:
        raise AirflowException(str(error)) from None


@as_airflow_errors()
def plan(
    conn_ids: Sequence[str] | None,
    *,
    dag_run_id: str | None = None,
    dag_folder: Path | None = None,
    bundle: Any = None,
) -> list[dict[str, Any]]:
    """The mapped `sync` instances: ``{"label", "conn_ids", "problems"}`` each.

    ``conn_ids``: the DAG param, to limit one run. Each instance polls apps of one region.
    ``problems``: the connections that must not be polled as they are listed, with the reason. The
    key keeps its name because a run that is under way while this package is upgraded has it in its
    XCom. An unrestricted run also retires apps that are no longer listed.
    ``dag_run_id``: the run, whose targets are recorded as planned; the previous release's DAG file
    does not give it. ``dag_folder`` and ``bundle``: where declared names are looked for; they are
    on record before the first poll. Raises AirflowFailException where the Variable or the param is
    not a list of connection ids.
    """
    from im_attr_audit.record.runs import prepare_run, record_planned
    from im_attr_audit.tasks.declarations import declare
    from im_attr_audit.tasks.targets import doubly_listed, resolve, size_of, split, with_known_apps

    listed = _listed_conn_ids()
    wanted = _wanted(conn_ids, listed)
    masked = len(listed) <= MASKED_AT_MOST
    targets = resolve(listed, masked=masked)
    misconfigured = doubly_listed(listed, targets)
    engine = audit_engine()
    try:
        prepare_run(engine)
        if refused := declare(engine, dag_run_id, dag_folder, bundle):
            log.error("%s", refused)
        if conn_ids is None:
            _retire_unlisted(engine, targets)
        known = with_known_apps(engine, targets)
        targets = {conn_id: target for conn_id, target in known.items() if conn_id in wanted}
        if dag_run_id is not None:
            planned = [(conn_id, t.region, t.sdk_app_id) for conn_id, t in targets.items()]
            record_planned(engine, dag_run_id, planned)
    finally:
        engine.dispose()

    by_region: dict[str, list[str]] = defaultdict(list)
    for conn_id, target in targets.items():
        by_region[target.region or "misconfigured"].append(conn_id)
    instances = [
        instance
        for region, ids in sorted(by_region.items())
        for instance in split(region, ids, size_of([targets[i] for i in ids]), misconfigured)
    ]
    # A run's state is that of its sync tasks: one is red as long as the document is refused.
    return [*instances, _DECLARED_NAMES] if refused else instances


@as_airflow_errors()
def sync(
    conn_ids: Sequence[str],
    misconfigured: Mapping[str, str],
    *,
    dag_run_id: str,
    begun_at: datetime | None,
    ti: Any,
) -> dict[str, int]:
    """Poll and record one instance's apps; how many ended in which outcome.

    ``begun_at``: when the DAG run began, by Airflow's clock. ``misconfigured``: the connections
    that were listed for the same app when the run was planned.
    A retry polls only what has no final outcome in this round; clearing the task begins a new one.
    Raises AirflowException (to be retried) if any app is `unavailable` or `unstable`, else
    AirflowFailException if any failed, or is `late` and has no good poll since the run began.
    """
    from im_attr_audit.airflow_stats import send_polls
    from im_attr_audit.errors import Unavailable
    from im_attr_audit.outcomes import FAILED
    from im_attr_audit.record.runs import FinishedPoll, read_finished
    from im_attr_audit.sync import sync_apps
    from im_attr_audit.tasks.targets import targets_to_poll

    wait = settings.CONFIRM_SECONDS.read()
    # Clearing sets max_tries to the tries there were plus the retries that are granted again.
    first_try = ti.max_tries - (ti.task.retries or 0) + 1
    engine = audit_engine()
    try:
        finished = read_finished(
            engine, dag_run_id=dag_run_id, first_try=first_try, conn_ids=conn_ids, begun_at=begun_at
        )
        done = {poll.conn_id for poll in finished}
        targets, unknown = targets_to_poll(
            engine,
            [conn_id for conn_id in conn_ids if conn_id not in done],
            _still_misconfigured(misconfigured),
            masked=len(conn_ids) <= MASKED_AT_MOST,
            is_last_try=ti.try_number > ti.max_tries,
        )
        recorded = sync_apps(
            engine, targets, dag_run_id=dag_run_id, try_number=ti.try_number, confirm_seconds=wait
        )
        send_polls(recorded)
        polls = [
            *finished,
            *(FinishedPoll(p.conn_id, p.outcome, p.error_info, p.error_code) for p in recorded),
        ]
        blind = _late_without_good(engine, dag_run_id, polls)
    finally:
        engine.dispose()

    polls += [
        FinishedPoll(conn_id, Unavailable.outcome, unknown[conn_id], None)
        for conn_id in sorted(unknown.keys() - {poll.conn_id for poll in polls})
    ]
    _raise_for([poll for poll in polls if poll.outcome in FAILED or poll.conn_id in blind])
    return dict(Counter(poll.outcome for poll in polls))


@as_airflow_errors()
def declare_again(dag_run_id: str, dag_folder: Path | None, bundle: Any) -> dict[str, int]:
    """What the `sync` instance does that `plan` adds where declared names are refused.

    Raises AirflowFailException as long as they are.
    """
    from im_attr_audit.tasks.declarations import declare

    engine = audit_engine()
    try:
        if refused := declare(engine, dag_run_id, dag_folder, bundle):
            raise AirflowFailException(refused)
    finally:
        engine.dispose()
    return {}


def _still_misconfigured(planned: Mapping[str, str]) -> Mapping[str, str]:
    from im_attr_audit.tasks.targets import still_misconfigured

    if not planned:
        return planned
    listed = _listed_conn_ids()
    return still_misconfigured(planned, listed, masked=len(listed) <= MASKED_AT_MOST)


def _raise_for(failed: Sequence[Failure]) -> None:
    """Log what failed, if anything did, and raise the error that Airflow retries, or not."""
    from im_attr_audit.messages.report import few
    from im_attr_audit.outcomes import FINAL

    if failed:
        _log_failures(failed)
        text = few([f"{poll.conn_id} {poll.outcome}" for poll in failed])
        if FINAL.issuperset(poll.outcome for poll in failed):
            raise AirflowFailException(f"not recorded: {text}")
        raise AirflowException(f"not recorded, will be tried again: {text}")


def _late_without_good(engine: Engine, dag_run_id: str, polls: Sequence[Failure]) -> set[str]:
    """The connections whose poll is late and whose app has no good poll since the run began."""
    from im_attr_audit.record.runs import read_run

    late = {poll.conn_id for poll in polls if poll.outcome == "late"}
    polls_of_run = read_run(engine, dag_run_id).polls if late else ()
    return late & {poll.conn_id for poll in polls_of_run if poll.failed}


def _log_failures(failed: Sequence[Failure]) -> None:
    """One line per connection, but for many with the same cause a few and their number."""
    from im_attr_audit.messages.report import MOST_CAUSES, MOST_OF_A_CAUSE, by_cause, one_line

    causes = list(by_cause(failed))
    for cause, group in causes[:MOST_CAUSES]:
        for poll in group[:MOST_OF_A_CAUSE]:
            log.error("%s: %s: %s", poll.conn_id, poll.outcome, one_line(poll.error_info or ""))
        if len(group) > MOST_OF_A_CAUSE:
            log.error("%d more with the same cause: %s", len(group) - MOST_OF_A_CAUSE, cause)
        for line in cause.advice:
            log.error("%s", line)
    if others := causes[MOST_CAUSES:]:
        number = sum(len(group) for _, group in others)
        log.error("%d more failures with %d other causes: see attr_audit.poll", number, len(others))


def _wanted(conn_ids: Sequence[str] | None, listed: Sequence[str]) -> set[str]:
    """The connections that this run polls; AirflowFailException where one is not listed."""
    wanted = set(listed if conn_ids is None else conn_ids)
    if unknown := wanted - set(listed):
        raise AirflowFailException(
            f"conn_ids names {', '.join(sorted(unknown))}, which the Variable {settings.CONN_IDS} "
            f"does not list. Add it there, or leave it out."
        )
    return wanted


def _retire_unlisted(engine: Engine, targets: Mapping[str, Target | Unresolved]) -> None:
    """Retire the apps that no connection lists any more, and log which."""
    from im_attr_audit.messages.report import few
    from im_attr_audit.record.runs import retire_apps

    addressed = {conn_id: target.app for conn_id, target in targets.items()}
    apps = retire_apps(
        engine,
        listed=[app for app in addressed.values() if app],
        unresolved=[conn_id for conn_id, app in addressed.items() if not app],
    )
    for word, retired in (("Retired", True), ("Listed again", False)):
        if addresses := [app.address for app, is_retired in apps if is_retired == retired]:
            log.info("%s: %s", word, few(addresses))


@as_airflow_errors()
def publish(inlet_events: Any, outlet_events: Any) -> int:
    """Emit an asset event per region and run for what no event has announced yet; how many.

    The arguments are those of the task's context. This run's changes are among them, and so are
    those that a cleared task of an earlier run recorded after that run's `publish`.
    """
    from im_attr_audit.record.publication import read_unannounced

    def announced_since(at: datetime) -> Iterator[object]:
        for event in inlet_events[CHANGES].after(at.isoformat()):
            if event.source_dag_id == DAG_ID:
                yield event.extra

    engine = audit_engine()
    try:
        events = read_unannounced(engine, announced_since)
    finally:
        engine.dispose()
    for event in events:
        outlet_events[CHANGES_ALIAS].add(CHANGES, extra=event)
    return len(events)


@as_airflow_errors()
def report(
    instances: Sequence[Mapping[str, Any]] | None,
    *,
    dag_run_id: str,
    states: Mapping[str, Any],
    dag_folder: Path | None = None,
    bundle: Any = None,
) -> None:
    """Log the run's table, send alerts and metrics; raise AirflowFailException if anything failed.

    ``states`` are those of the tasks before it: an instance that died without recording anything
    is a failure too, and so is an app of which this run has no poll. Declared names are read again,
    so that clearing this task is enough once a refused document is fixed.
    """
    from im_attr_audit.airflow_stats import send_gauges
    from im_attr_audit.messages.report import few, render
    from im_attr_audit.record.runs import read_run
    from im_attr_audit.tasks.declarations import declare

    engine = audit_engine()
    try:
        run = read_run(engine, dag_run_id)
        polled = {poll.conn_id for poll in run.polls}
        expected = [conn_id for instance in instances or () for conn_id in instance["conn_ids"]]
        unpolled = [conn_id for conn_id in expected if conn_id not in polled]
        log.info("%s", render(run, unpolled))
        refused = declare(engine, dag_run_id, dag_folder, bundle)
        alert_errors = _send_alerts(engine, dag_run_id)
        send_gauges(engine)
    finally:
        engine.dispose()

    failures = [f"{poll.conn_id} {poll.outcome}" for poll in run.polls if poll.failed]
    failures += [f"{conn_id} not polled" for conn_id in unpolled]
    failed_tasks = [
        f"task {task} {state}"
        for task, state in sorted(states.items())
        if state not in ("success", "skipped", "removed") and not task.startswith("report")
    ]
    no_plan = ["no plan: see the log of the plan task"] if instances is None else []
    causes = [few(failures), few(failed_tasks), *no_plan, *alert_errors, refused or ""]
    if any(causes):
        raise AirflowFailException("this run failed: " + "; ".join(filter(None, causes)))


def _send_alerts(engine: Engine, dag_run_id: str) -> list[str]:
    """Record what alerts are due, send the waiting ones; what failed on *our* side.

    A messenger that is down does not fail the run: its alerts wait.
    """
    from im_attr_audit.messages.notify import send_waiting
    from im_attr_audit.record.notifications import record_gaps, record_violations
    from im_attr_audit.record.reviews import queue_unreviewed

    try:
        record_gaps(engine, dag_run_id=dag_run_id, stale_after=settings.stale_after())
        record_violations(engine, dag_run_id=dag_run_id)
        queue_unreviewed(engine, settings.review_within(), dag_run_id=dag_run_id)
        send_waiting(engine)
    except (BadSetting, LockTimeout) as error:
        return [str(error)]
    except Exception as error:
        # Whatever it is, it must not hide the other failures of this run.
        log.exception("Alerts could not be read or marked as sent.")
        return [f"alerts could not be read or marked as sent ({type(error).__name__})"]
    return []


@without_frames
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
