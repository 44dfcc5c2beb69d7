"""Declared names in the database: at every time what the pure core says, recorded once, kept."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from im_attr_audit.apps import AppKey
from im_attr_audit.declared.judge import Judged, judge
from im_attr_audit.declared.model import (
    NOTHING,
    Declaration,
    Deviation,
    Group,
    Violation,
)
from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Rejected
from im_attr_audit.record.declarations import (
    read_last,
    read_present,
    record_declaration,
)
from im_attr_audit.record.notifications import record_violations
from im_attr_audit.record.reviews import (
    Answer,
    note_requests,
    queue_unreviewed,
    read_unasked,
    record_answer,
)
from im_attr_audit.record.runs import retire_apps
from im_attr_audit.record.store import record_polls, record_unchanged

from launch.postgres import EmbeddedPostgres
from tests import declared_oracle as oracle
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import NamesLike, polled
from tests.test_schema import refused
from tests.test_views import months_for_histories, run

BEGIN = datetime(2025, 11, 2, tzinfo=UTC)
TICK = timedelta(microseconds=1)
APPS = [AppKey("china", 1), AppKey("china", 2), AppKey("seoul", 3)]
GROUPS = ["shop", "games"]
HISTORIES, STEPS = 2, 50


def declare(db: AuditDb, text: str, **more: Any) -> bool:
    given = {"source": "test", "revision": None, "text_digest": None, "dag_run_id": "run"} | more
    return record_declaration(db.writer, parse(text, "test").declaration, **given)


# The oracle -------------------------------------------------------------------------------------

Change = tuple[AppKey, int, datetime]
"""App, slot and the time at which it was seen."""


@dataclass
class Story:
    """What happened, and by brute force what follows from it."""

    declared: list[tuple[datetime, Declaration]] = field(default_factory=list)
    groups: dict[AppKey, list[tuple[datetime, str]]] = field(default_factory=dict)
    names: dict[AppKey, list[tuple[datetime, dict[int, str]]]] = field(default_factory=dict)
    runs: dict[tuple[AppKey, datetime], str] = field(default_factory=dict)
    retired: set[AppKey] = field(default_factory=set)
    #: Of an app's slot and the time its change was seen: the answers as they were recorded.
    reviews: dict[Change, list[Answer]] = field(default_factory=dict)
    asked: set[Change] = field(default_factory=set)
    overdue: set[Change] = field(default_factory=set)

    def group(self, app: AppKey, at: datetime) -> str:
        stays = self.groups[app]
        return next((name for since, name in reversed(stays) if since <= at), stays[0][1])

    def violations(self, app: AppKey, at: datetime) -> dict[int, Violation]:
        declaration = oracle.declared_then(self.declared, at)
        seen = next((n for since, n in reversed(self.names[app]) if since <= at), None)
        if declaration is None or seen is None:
            return {}
        return oracle.violations(declaration, self.group(app, at), app, seen, at)

    def present(self, now: datetime) -> dict[tuple[AppKey, int], Violation]:
        """What is not as declared now, of the apps that are listed."""
        return {
            (app, slot): each
            for app in self.names.keys() - self.retired
            for slot, each in self.violations(app, now).items()
        }

    def changes(self) -> dict[Change, tuple[str | None, str | None, str, bool | None]]:
        """Old and new name, the group of then, and whether it was as declared then."""
        found: dict[Change, tuple[str | None, str | None, str, bool | None]] = {}
        for app, seen in self.names.items():
            for (_, old), (at, new) in pairwise(seen):
                declaration, group = (
                    oracle.declared_then(self.declared, at) or NOTHING,
                    self.group(app, at),
                )
                for slot in old.keys() | new.keys():
                    if old.get(slot) != new.get(slot):
                        term = oracle.term(declaration, group, app, slot, at)
                        declared = None if term is None else term.name == new.get(slot)
                        found[app, slot, at] = (old.get(slot), new.get(slot), group, declared)
        return found

    def last_review(self, change: Change) -> Answer | None:
        """The answer that counts: the latest one, of two at the same time the one recorded last."""
        return max(self.reviews.get(change, ()), key=lambda each: each.reviewed_at, default=None)

    def unreviewed(self) -> set[Change]:
        """The changes that are neither as declared nor answered."""
        return {
            change
            for change, (*_, declared) in self.changes().items()
            if not declared and change not in self.reviews
        }

    def bounds(self, app: AppKey) -> list[datetime]:
        """Every time at which something that counts for the app may change."""
        ends = [
            each.ends_at
            for _, declaration in self.declared
            for group in declaration.groups.values()
            for each in group.exceptions
            if each.ends_at
        ]
        lists = (self.declared, self.groups[app], self.names[app])
        return sorted({*ends, *(at for each in lists for at, _ in each)})

    def since(self, app: AppKey, slot: int, now: datetime) -> datetime:
        found = now
        for at in reversed([bound for bound in self.bounds(app) if bound <= now]):
            if slot not in self.violations(app, at):
                break
            found = at
        return found


def random_declaration(rng: random.Random, today: date) -> Declaration:
    def names(*more: str | None) -> dict[int, str | None]:
        words = [rng.choice(of_slot) for of_slot in ("ab", "cd", "ef")]  # no name in two slots
        return {slot: rng.choice([words[slot], *more]) for slot in range(3) if rng.random() < 0.7}

    def exceptions() -> Iterator[Deviation]:
        for region, app in rng.sample([("china", None), (None, 1), ("china", 1), ("seoul", 3)], 2):
            until = today + timedelta(days=rng.randrange(-20, 60)) if rng.random() < 0.5 else None
            yield Deviation(region, app, names(None), "reason", until)

    return Declaration(
        {
            group: Group(names(), rng.random() < 0.3, tuple(exceptions()))
            for group in GROUPS
            if rng.random() < 0.8
        }
    )


def step(db: AuditDb, story: Story, rng: random.Random, at: datetime) -> None:
    """One thing happens: a declaration, a review, another list of apps, or a poll."""
    [what] = rng.choices([declare_something, review, list_apps, poll], [3, 2, 1, 6])
    what(db, story, rng, at)


def declare_something(db: AuditDb, story: Story, rng: random.Random, at: datetime) -> None:
    """Another document, or none any longer."""
    declaration = rng.choice([NOTHING, *[random_declaration(rng, at.date())] * 5])
    last = story.declared[-1][1] if story.declared else NOTHING
    if declaration.digest == last.digest:
        return
    run(
        db.owner,
        "insert into attr_audit.declaration (recorded_at, source, digest, document) "
        "values (:at, 'test', :digest, cast(:document as jsonb))",
        at=at,
        digest=declaration.digest,
        document=json.dumps(declaration.document),
    )
    story.declared.append((at, declaration))


def list_apps(db: AuditDb, story: Story, rng: random.Random, at: datetime) -> None:
    """The plan of an unrestricted run: an app is retired, or back."""
    listed = rng.sample(APPS, rng.randrange(1, 4))
    retire_apps(db.writer, listed=listed, unresolved=())
    story.retired = story.names.keys() - set(listed)


def review(db: AuditDb, story: Story, rng: random.Random, at: datetime) -> None:
    """What waits is asked about; some changes are answered, asked about or not, again or late."""
    runs = {story.runs[app, seen] for app, _, seen in story.changes()}
    announced = [name for name in sorted(runs) if rng.random() < 0.5]
    asked = read_unasked(db.writer, announced, dag_run_id=f"review {at}")
    assert {(AppKey(c.region, c.sdk_app_id), c.slot, c.seen_at) for c in asked} == {
        (app, slot, seen)
        for app, slot, seen in story.unreviewed() - story.asked
        if story.runs[app, seen] in announced
    }
    note_requests(db.writer, asked, dag_run_id=f"review {at}")
    story.asked |= {(AppKey(c.region, c.sdk_app_id), c.slot, c.seen_at) for c in asked}
    rows = run(db.reader, "select * from changes order by region, sdk_app_id, seq")
    for row in rng.sample(rows, min(len(rows), rng.randrange(3))):
        answer = Answer(
            verdict=rng.choice(("expected", "not_expected")),
            reviewer=rng.choice(["uma", "vera"]),
            reviewer_id=None,
            ticket=rng.choice([None, "OPS-1", "OPS-2"]),
            comment=None,
            reviewed_at=at - timedelta(hours=rng.choice([0, 0, 1000])),
            dag_run_id=f"review {at}",
        )
        app = AppKey(row.region, row.sdk_app_id)
        for new in (1, 0):  # a retried task records it once
            assert record_answer(db.writer, app.region, {app.sdk_app_id: [row.seq]}, answer) == new
        story.reviews.setdefault((app, row.slot, row.seen_at), []).insert(0, answer)


def poll(db: AuditDb, story: Story, rng: random.Random, at: datetime) -> None:
    """A poll that may see other names, in another group."""
    app = rng.choice([app for app in APPS if app not in story.retired])
    names = dict(story.names[app][-1][1]) if app in story.names else {7: "kept"}
    for slot in rng.sample(range(3), rng.randrange(3)):
        names.pop(slot, None)
        if rng.random() < 0.7:
            names[slot] = rng.choice("abcdef") + rng.choice(["", " "])
    before = story.groups[app][-1][1] if app in story.groups else None
    group = before if before and rng.random() < 0.8 else rng.choice(GROUPS)
    made = polled(
        names, names, at=at, region=app.region, sdk_app_id=app.sdk_app_id, app_group=group
    )
    [recorded] = record_polls(db.writer, [made], dag_run_id=f"run {at}", try_number=1)
    assert recorded.outcome == "ok"
    if group != before:
        story.groups.setdefault(app, []).append((at, group))
    if app not in story.names or story.names[app][-1][1] != names:
        seen_at = made.reads[0].responded_at
        story.names.setdefault(app, []).append((seen_at, names))
        story.runs[app, seen_at] = f"run {at}"


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_database_says_at_every_time_what_the_core_says(audit_db: AuditDb, seed: int) -> None:
    rng = random.Random(seed)
    months_for_histories(audit_db)
    # So that the test sets the times, and no app is stale.
    run(audit_db.owner, "alter table attr_audit.declaration disable trigger accept_declaration")
    run(audit_db.owner, "select attr_audit_internal.note_stale_after('100 years')")
    story, at, alerted = Story(), BEGIN, Alerted()
    found = 0
    for number in range(STEPS):
        at += timedelta(hours=rng.choice([1, 7, 24, 100]), seconds=rng.random())
        step(audit_db, story, rng, at)
        [[now]] = run(audit_db.owner, "select now()")
        listed = {
            (AppKey(row.region, row.sdk_app_id), row.slot): row
            for row in run(audit_db.reader, "select * from violations")
        }
        right = story.present(now)
        assert listed.keys() == right.keys()
        for (app, slot), row in listed.items():
            each = right[app, slot]
            assert (row.violation, row.declared_name, row.actual_name, row.app_group) == (
                each.violation,
                each.declared_name,
                each.actual_name,
                story.group(app, now),
            )
            assert row.since == story.since(app, slot, now), (app, slot)
            found += 1
        check_names(audit_db, story)
        check_changes(audit_db, story)
        check_judge(audit_db, timedelta(days=36500))
        if number % 5 == 0:
            check_digests(audit_db)
        check_alerts(audit_db, story, alerted, rng)
        check_overdue(audit_db, story)
    assert found > 20
    assert len({kind for kind, *_ in alerted.due}) == 2
    assert {declared for *_, declared in story.changes().values()} == {None, False, True}
    assert story.overdue
    check_past(audit_db, story)


def check_changes(db: AuditDb, story: Story) -> None:
    """By the declaration and the group of then, with the review that counts."""
    right: dict[Change, tuple[Any, ...]] = {}
    for change, (old, new, group, declared) in story.changes().items():
        last = story.last_review(change)
        said = (last.verdict, last.reviewer, last.ticket, last.reviewed_at) if last else (None,) * 4
        right[change] = (old, new, group, declared, *said)
    columns = "old_name, new_name, app_group, declared, verdict, reviewer, ticket, reviewed_at"
    for relation, those in (("changes", right.keys()), ("unreviewed_changes", story.unreviewed())):
        rows = run(
            db.reader, f"select region, sdk_app_id, slot, seen_at, {columns} from {relation}"
        )
        shown = {(AppKey(row[0], row[1]), row[2], row[3]): tuple(row[4:]) for row in rows}
        assert shown == {change: right[change] for change in those}


def check_names(db: AuditDb, story: Story) -> None:
    [[now]] = run(db.owner, "select now()")
    declaration = oracle.declared_then(story.declared, now) or NOTHING
    right = {
        (app, slot): (term.name, term.reason, term.until, story.group(app, now))
        for app in story.names.keys() - story.retired
        for slot, term in oracle.terms(declaration, story.group(app, now), app, now).items()
    }
    assert right == {
        (AppKey(row.region, row.sdk_app_id), row.slot): (
            row.name,
            row.reason,
            row.until,
            row.app_group,
        )
        for row in run(db.reader, "select * from declared_names")
    }


def check_judge(db: AuditDb, stale_after: timedelta) -> None:
    """What the command `declare` shows beforehand is what the view shows afterwards."""
    present = read_present(db.reader, stale_after)
    rows = run(
        db.reader,
        "select app_group, region, sdk_app_id, slot, violation, declared_name, actual_name "
        "from violations order by app_group, region, sdk_app_id, slot",
    )
    assert judge(present.declaration, present.apps, present.at) == [
        Judged(row.app_group, AppKey(row.region, row.sdk_app_id), *row[3:]) for row in rows
    ]


def without_triggers(db: AuditDb, statement: str) -> None:
    """As the database was before it had the trigger, or as a forger would."""
    with db.server.connect(db.name) as connection, connection.cursor() as cursor:
        cursor.execute("set session_replication_role = replica")
        cursor.execute(statement)


def check_digests(db: AuditDb) -> None:
    """The digests of names save work and do nothing else: without them the answer is the same."""
    listed = (
        "select since, app_group, region, sdk_app_id, slot, violation, declared_name, actual_name, "
        "lookalike from violations order by region, sdk_app_id, slot"
    )
    before = run(db.reader, listed)
    [[apps, right]] = run(
        db.owner,
        "select count(*), count(*) filter (where a.names_digest = d.names_digest) "
        "from attr_audit.app a, attr_audit_internal.digests_of(a.region, a.sdk_app_id) d",
    )
    assert apps == right
    without_triggers(db, "update attr_audit.app set names_digest = null")
    assert run(db.reader, listed) == before
    without_triggers(
        db,
        "update attr_audit.app a set names_digest = (select d.names_digest from "
        "attr_audit_internal.digests_of(a.region, a.sdk_app_id) d)",
    )


def check_past(db: AuditDb, story: Story) -> None:
    """Violations at every time that counts."""
    for app in story.names:
        instants = [at + tick for at in story.bounds(app) for tick in (-TICK, TICK * 0)]
        for slot in (0, 1, 2, 7):
            spans = run(
                db.owner,
                "select i, i <@ attr_audit_internal.violation_spans(:region, :id, "
                "cast(:slot as smallint)) from unnest(cast(:instants as timestamptz[])) i",
                region=app.region,
                id=app.sdk_app_id,
                slot=slot,
                instants=instants,
            )
            for at, violated in spans:
                assert bool(violated) == (slot in story.violations(app, at)), (app, slot, at)


# Alerts -----------------------------------------------------------------------------------------


@dataclass
class Alerted:
    """The alerts that are due by the oracle: since when, of the slots whose alert is open."""

    open: dict[tuple[AppKey, int], datetime] = field(default_factory=dict)
    due: list[tuple[Any, ...]] = field(default_factory=list)

    def report(self, story: Story, now: datetime) -> None:
        """What a report at this time queues: first what is over, then what begins."""
        present = story.present(now)
        over = []
        for (app, slot), since in list(self.open.items()):
            if app in story.retired:
                continue
            # The history is written in the past: what was alerted may never have been.
            was = slot in story.violations(app, since)
            is_again = (app, slot) in present
            if is_again and not (was and story.since(app, slot, now) > since):
                continue
            bounds = [at for at in story.bounds(app) if since < at <= now] if was else []
            end = next((at for at in bounds if slot not in story.violations(app, at)), None)
            over.append(("violation_over", app, slot, since, end))
            del self.open[app, slot]
        begun = []
        for (app, slot), each in present.items():
            if (app, slot) not in self.open:
                since = self.open[app, slot] = story.since(app, slot, now)
                begun.append(("violation", app, slot, since, each.violation))
        self.due += sorted(over) + sorted(begun)


def check_alerts(db: AuditDb, story: Story, alerted: Alerted, rng: random.Random) -> None:
    """One alert when a violation begins and one when it ends; none because nobody could look."""
    unseen = rng.choice(
        [
            (
                "select attr_audit_internal.note_stale_after('1 second')",
                "select attr_audit_internal.note_stale_after('100 years')",
            ),
            (
                "update attr_audit.app set retired_at = 'epoch' where retired_at is null",
                "update attr_audit.app set retired_at = null where retired_at = 'epoch'",
            ),
        ]
    )
    run(db.owner, unseen[0])
    assert record_violations(db.writer, dag_run_id="unseen") == 0
    run(db.owner, unseen[1])
    [[now]] = run(db.owner, "select now()")
    known = len(alerted.due)
    alerted.report(story, now)
    assert record_violations(db.writer, dag_run_id="run") == len(alerted.due) - known
    assert record_violations(db.writer, dag_run_id="run") == 0  # a retry, or a cleared task
    rows = run(
        db.reader,
        "select kind, region, sdk_app_id, slot, gap_from, gap_to, created_at, violation "
        "from notification where kind like 'violation%' order by notification_id offset :known",
        known=known,
    )
    right = alerted.due[known:]
    assert len(rows) == len(right)
    for row, (kind, app, slot, since, last) in zip(rows, right, strict=True):
        assert (row.kind, AppKey(row.region, row.sdk_app_id), row.slot) == (kind, app, slot)
        assert row.gap_from == since
        if kind == "violation":
            assert row.violation == last
        elif last is None:  # it is no longer in the history: over by now
            assert abs(row.gap_to - row.created_at) < timedelta(seconds=60)
        else:
            assert row.gap_to == last


def check_overdue(db: AuditDb, story: Story) -> None:
    """Each change that was asked about and has no answer is alerted once."""
    due = story.asked - story.reviews.keys() - story.overdue
    assert queue_unreviewed(db.writer, timedelta(), dag_run_id="run") == len(due)
    assert queue_unreviewed(db.writer, timedelta(), dag_run_id="run") == 0
    story.overdue |= due


# Recording --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def db(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    with fresh_audit_db(postgres, template) as it:
        yield it


def test_a_declaration_is_recorded_whenever_it_differs_and_only_then(db: AuditDb) -> None:
    assert not declare(db, "")  # nothing was declared, nothing is
    assert read_last(db.reader) is None
    shop = 'groups:\n  shop:\n    names: {1: city, 0: \'sex\', 10: "é\\"\\\\"}\n'
    assert declare(db, shop, source="a file", revision="4f2c", text_digest=b"x")
    assert not declare(db, "# other words\n" + shop)
    [row] = run(db.reader, "select source, revision, dag_run_id, digest from declaration")
    assert row[:3] == ("a file", "4f2c", "run")
    declaration = parse(shop, "x").declaration
    assert bytes(row.digest) == declaration.digest  # the core's canonical form is the database's
    assert read_present(db.reader, timedelta(hours=1)).declaration == declaration
    assert declare(db, "")  # taken back
    assert declare(db, shop)
    assert run(db.reader, "select count(*) from declaration") == [(3,)]


def test_a_declaration_cannot_be_rewritten(db: AuditDb) -> None:
    declare(db, "groups: {a: {names: {}}}")
    for engine, statement in [
        (db.owner, "update attr_audit.declaration set source = 'x'"),
        (db.owner, "delete from attr_audit.declaration"),
        (db.owner, "truncate attr_audit.declaration"),
        (
            db.writer,
            "insert into attr_audit.declaration (recorded_at, source, document) "
            "values (now(), 'x', '{\"groups\": {}}')",
        ),
        (db.writer, "delete from attr_audit_internal.declared_term"),
        (db.reader, "insert into attr_audit.declaration (source, document) values ('x', '{}')"),
    ]:
        assert refused(engine, statement)
    assert "has no groups" in refused(
        db.writer, "insert into attr_audit.declaration (source, document) values ('x', '[1]')"
    )


def test_what_differs_is_found_by_group_app_and_slot_and_types_do_not_count(
    audit_db: AuditDb,
) -> None:
    months_for_histories(audit_db)
    run(audit_db.owner, "select attr_audit_internal.note_stale_after('100 years')")
    declare(
        audit_db,
        "groups:\n"
        "  shop: {names: {0: sex, 1: city, 5: null}}\n"
        "  games: {names: {0: sex}, other_slots: allowed}\n"
        "  chat:\n"
        "    names: {0: sex}\n"
        "    exceptions: [{region: china, names: {1: town, 0: null}, reason: local}]\n",
    )
    apps: list[tuple[str, str, NamesLike]] = [
        ("china", "shop", {0: "sex", 1: "city"}),
        ("china", "shop", {0: ("sex", 0), 1: ("city", 1)}),  # as declared, with types
        ("china", "shop", {0: "sex", 1: "City"}),
        ("seoul", "shop", {0: ("sex", 0), 1: ("City", None)}),
        ("seoul", "shop", {0: "sex", 1: "city", 5: "x", 6: "y"}),
        ("china", "games", {0: "sex", 1: "city"}),
        ("seoul", "games", {1: "city"}),
        ("china", "chat", {1: "town"}),  # as its exception has it
        ("china", "chat", {0: "sex"}),  # as the others of its group
        ("seoul", "chat", {0: "sex"}),
        ("seoul", "of which nothing is declared", {0: "x"}),
    ]
    polls = [
        polled(names, names, at=BEGIN, region=region, sdk_app_id=app, app_group=group)
        for app, (region, group, names) in enumerate(apps, start=1)
    ]
    record_polls(audit_db.writer, polls, dag_run_id="run", try_number=1)
    found = [
        (3, 1, "different", "city", "City"),
        (4, 1, "different", "city", "City"),
        (5, 5, "undeclared", None, "x"),
        (5, 6, "undeclared", None, "y"),
        (7, 0, "missing", "sex", None),
        (9, 0, "undeclared", None, "sex"),
        (9, 1, "missing", "town", None),
    ]
    columns = "sdk_app_id, slot, violation, declared_name, actual_name"
    assert run(audit_db.reader, f"select {columns} from violations order by 1, 2") == found
    for where, rows in [
        ("app_group = 'shop'", found[:4]),
        ("region = 'china' and sdk_app_id = 3", found[:1]),
        ("region = 'seoul' and sdk_app_id = 3", []),
        ("slot = 0 and violation = 'missing'", [found[4]]),
    ]:
        asked = f"select {columns} from violations where {where} order by 1, 2"
        assert run(audit_db.reader, asked) == rows
    check_judge(audit_db, timedelta(days=36500))
    check_digests(audit_db)


def test_the_next_poll_fills_a_digest_that_an_upgrade_left_empty(audit_db: AuditDb) -> None:
    months_for_histories(audit_db)
    names = {0: ("sex", 1)}
    first = polled(names, names, at=BEGIN)
    record_polls(audit_db.writer, [first], dag_run_id="run", try_number=1)
    asked = "select snapshot_digest, names_digest from app"
    before = run(audit_db.reader, asked)
    without_triggers(audit_db, "update attr_audit.app set names_digest = null")
    second = polled(names, at=BEGIN + timedelta(minutes=15))
    assert record_unchanged(audit_db.writer, [second], dag_run_id="run 2", try_number=1) == {}
    assert run(audit_db.reader, asked) == before
    assert "permission denied" in refused(audit_db.writer, "update app set names_digest = ''")


def test_an_app_that_is_stale_or_was_never_seen_is_unknown(audit_db: AuditDb) -> None:
    months_for_histories(audit_db)
    declare(audit_db, "groups: {default: {names: {0: sex, 1: city}}}")
    failure = Rejected("no", error_code=90009)
    polls = [
        polled({0: "sex", 5: "x"}, {0: "sex", 5: "x"}, at=BEGIN, sdk_app_id=1),
        polled(at=BEGIN, sdk_app_id=2, failure=failure),
    ]
    record_polls(audit_db.writer, polls, dag_run_id="run", try_number=1)
    rows = run(
        audit_db.reader,
        "select sdk_app_id, slot, violation, declared_name, actual_name, since is not null "
        "from violations order by 1, 2",
    )
    assert rows == [
        (1, 0, "unknown", "sex", "sex", True),
        (1, 1, "unknown", "city", None, True),
        (1, 5, "unknown", None, "x", True),
        (2, 0, "unknown", "sex", None, True),
        (2, 1, "unknown", "city", None, True),
    ]
    check_judge(audit_db, timedelta(hours=1))
    run(audit_db.owner, "update attr_audit.app set retired_at = now()")
    assert run(audit_db.reader, "select from violations") == []
    assert run(audit_db.reader, "select from declared_names") == []
