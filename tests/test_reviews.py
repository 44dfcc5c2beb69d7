"""Reviews: what is asked about, what an answer records, and what the database keeps of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import escape
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.standard.operators import hitl
from airflow.sdk.exceptions import AirflowFailException, ParamValidationError
from im_attr_audit.messages.inert import inert_word
from im_attr_audit.messages.notify import compose
from im_attr_audit.messages.questions import OPTIONS, NotAnAnswer, answer_of, questions
from im_attr_audit.names import AttrName
from im_attr_audit.record.checks.verify import check_database
from im_attr_audit.record.notifications import deliver, read_waiting
from im_attr_audit.record.reviews import (
    Answer,
    UnreviewedChange,
    queue_unreviewed,
    record_answer,
)
from im_attr_audit.settings import DAG_ID
from im_attr_audit.tasks import review as review_tasks
from im_attr_audit.tasks.review_operator import ReviewOperator, form
from markdown_it import MarkdownIt
from sqlalchemy.exc import ProgrammingError

from launch.postgres import EmbeddedPostgres
from tests.conftest import AuditDb, fresh_audit_db
from tests.history import NamesLike, polled
from tests.test_schema import months_before, record, refused, run

REGION, APP, BASELINE, RENAMED = "frankfurt", 1400000001, 1, 3
NOW = datetime(2026, 11, 2, tzinfo=UTC)


@pytest.fixture(scope="module")
def shared(postgres: EmbeddedPostgres, template: str) -> Iterator[AuditDb]:
    with fresh_audit_db(postgres, template) as db:
        months_before(db)
        yield db


_apps = itertools.count(1400000001)


class Scene:
    """An app of its own in the shared database, with runs of its own."""

    def __init__(self, db: AuditDb) -> None:
        self.db, self.app = db, next(_apps)
        self.at = 0
        self.poll({0: "sex", 1: "city"})

    def poll(self, names: NamesLike, region: str = REGION) -> str:
        """One more poll of the app; its run."""
        self.at += 900
        name = f"audit {self.app} {self.at}"
        poll = polled(names, names, at=self.at, region=region, sdk_app_id=self.app)
        record(self.db, poll, run_id=name)
        return name

    def ask(self, *events: tuple[str, str], run: str = "review 1", source: str = DAG_ID) -> Any:
        """What the task `ask` gives for events of these runs and regions."""
        extras = [{"dag_run_id": name, "region": region} for name, region in events]
        given = [SimpleNamespace(source_dag_id=source, extra=extra) for extra in extras]
        triggered = {"asset": given} if events else {}
        return review_tasks.ask(triggered, days=3650, dag_run_id=f"{run} {self.app}")

    def answer(
        self, seq: int, verdict: Any = "expected", *, at: datetime = NOW, **more: Any
    ) -> int:
        given = Answer(verdict, "uma", "7", "OPS-1", None, at, f"review 1 {self.app}")
        answer = dataclasses.replace(given, **more)
        return record_answer(self.db.writer, REGION, {self.app: [seq]}, answer)

    def rows(self, relation: str, columns: str = "*") -> list[Any]:
        where = f"where sdk_app_id = {self.app}"
        return run(self.db.reader, f"select {columns} from attr_audit.{relation} {where}")


@pytest.fixture
def scene(shared: AuditDb, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setenv("AIRFLOW_CONN_IM_ATTR_AUDIT_DB", shared.writer_connection)
    return Scene(shared)


# What is asked about ---------------------------------------------------------------------------


def test_one_question_for_each_region_and_run(scene: Scene) -> None:
    scene.poll({0: "sex"}, "seoul")
    first = scene.poll({0: "gender", 1: "town"})
    second = scene.poll({0: "x"}, "seoul")
    # Of two events at the same time Airflow hands over one: all regions of its run are asked about.
    asked = scene.ask((first, "another region"), (second, "seoul"))
    app = str(scene.app)
    assert [(q["region"], q["changes"]) for q in asked] == [
        (REGION, {app: [3, 4]}),
        ("seoul", {app: [2]}),
    ]
    assert asked[0]["subject"] == "frankfurt: 2 changes of attribute names. Expected?"
    assert asked[1]["subject"] == "seoul: 1 change of attribute names. Expected?"


def test_a_baseline_is_not_asked_about(scene: Scene) -> None:
    other = Scene(scene.db)
    assert other.ask((f"audit {other.app} 900", REGION)) == []


def test_a_reviewed_change_is_not_asked_about(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    scene.answer(RENAMED)
    assert scene.ask((name, REGION)) == []


def test_a_second_event_asks_only_about_what_the_first_did_not_announce(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    assert len(scene.ask((name, REGION))) == 1
    poll = polled({0: "x", 1: "city"}, {0: "x", 1: "city"}, at=5000, sdk_app_id=scene.app)
    record(scene.db, poll, run_id=name)
    [question] = scene.ask((name, REGION), run="review 2")
    assert question["changes"] == {str(scene.app): [4]}


def test_a_cleared_task_asks_the_same_again(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    assert scene.ask((name, REGION)) == scene.ask((name, REGION))


def test_a_run_triggered_by_hand_asks_about_everything_unreviewed(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    scene.ask((name, REGION))
    seqs = [question["changes"].get(str(scene.app)) for question in scene.ask(run="review 2")]
    assert [RENAMED] in seqs


def test_an_event_that_somebody_else_wrote_asks_nothing(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    assert scene.ask((name, REGION), source="another_dag") == []


HOSTILE_NAMES = {
    "html": "<img src=x onerror=alert(1)>",
    "cell": "a | b |\n| c",
    "span": "`` ` ```",
    "link": "[x](https://evil.example) www.evil.example a@evil.example",
    "entity": "&lt;b&gt; &#x60;",
    "template": "{{ 7*7 }} {% raw %}",
    "markup": "**bold** _it_ ~~x~~ # h",
    "bidi": "\u202egpj.exe\u2069\u200b",
    "escape": "\x1b[31m\\u0041\\",
    "emoji": "\U0001f3f3\ufe0f" * 6,
    "empty": "",
}


@pytest.mark.parametrize("trick", HOSTILE_NAMES)
def test_a_name_is_inert_in_the_question(trick: str) -> None:
    name = HOSTILE_NAMES[trick]
    change = UnreviewedChange(
        dag_run_id=f"manual__{name}",
        region="frankfurt",
        sdk_app_id=7,
        seq=3,
        app_group=name or "default",
        slot=0,
        kind="renamed",
        old=AttrName(name),
        new=AttrName("city", 1),
        not_before=NOW,
        seen_at=NOW,
        lookalike="case",
        moved_from_slot=None,
        declared=False,
    )
    [question] = questions([change], base_url="https://airflow.example")
    shown = inert_word(name).replace("{", "\\u007b").replace("}", "\\u007d")
    assert "{{" not in question.body
    assert "{%" not in question.body
    html = MarkdownIt("js-default", {"html": True}).disable("linkify").render(question.body)
    tags = re.findall(r"<(\w+)", html)
    assert set(tags) == {"p", "a", "code", "table", "thead", "tbody", "tr", "th", "td", "strong"}
    assert tags.count("td") == 6
    assert set(re.findall(r'href="(https://[^/"]*)', html)) == {"https://airflow.example"}
    # Airflow's interface makes links of addresses in plain text, but never in a code span.
    outside = re.sub(r"<[^>]*>", "", re.sub(r"<code>.*?</code>", "", html))
    assert not re.search(r"www\.|@|https?://(?!airflow)", outside)
    assert f"<code>{escape(shown)}</code>" in html
    assert all(char.isprintable() or char == "\n" for char in html)


def test_a_question_says_what_an_answer_needs() -> None:
    change = UnreviewedChange(
        *("scheduled__1", "silicon_valley", 7, 3, "shop", 2, "renamed", AttrName("Level")),
        *(AttrName("level"), NOW, NOW + timedelta(minutes=15), "case", 4, None),
    )
    [question] = questions([change], base_url="https://airflow.example")
    lines = question.body.splitlines()
    assert "/dags/im_attr_name_audit/runs/scheduled__1) recorded 1 change" in lines[0]
    assert lines[4] == (
        '| shop 7 | 2 | renamed: `"Level"` → `"level"` (from slot 4), look-alike: case | '
        "2026\u201111\u201102 00:00:00Z and 00:15:00Z | nothing declared | "
        "[page](https://airflow.example/im-attr-audit/changes?seq=3&app=silicon_valley%2F7) |"
    )
    later = dataclasses.replace(change, seen_at=NOW + timedelta(days=1), declared=False)
    [question] = questions([later])
    assert (
        "| 2026\u201111\u201102 00:00:00Z and 2026\u201111\u201103 00:00:00Z | **no** |"
        in question.body
    )
    assert 'by the old name ("Level")' in lines[-1]
    assert "](" not in questions([change])[0].body


def test_a_question_about_many_changes_lists_some_and_covers_all() -> None:
    changes = [
        UnreviewedChange(
            *("run", REGION, app, 2, "shop", 0, "added", None, AttrName("x"), NOW, NOW),
            *(None, None, None),
        )
        for app in range(5000)
    ]
    [question] = questions(changes)
    assert question.body.count("| added: ") == 100
    assert "… and 4900 more changes of this run" in question.body
    assert "recorded for all of them" in question.body
    assert len(question.changes) == 5000


# What an answer records ------------------------------------------------------------------------


def test_the_views_show_the_last_review(scene: Scene) -> None:
    scene.poll({0: "gender", 1: "city"})
    [waiting] = scene.rows("unreviewed_changes")
    assert (waiting.seq, waiting.verdict) == (RENAMED, None)
    assert waiting.age_seconds > 0
    assert scene.answer(RENAMED, "not_expected") == 1
    [change] = scene.rows("changes")
    assert (change.verdict, change.reviewer, change.ticket, change.reviewed_at) == (
        *("not_expected", "uma", "OPS-1"),
        NOW,
    )
    assert scene.rows("unreviewed_changes") == []


def test_the_last_answer_counts_whenever_it_is_recorded(scene: Scene) -> None:
    scene.poll({0: "gender", 1: "city"})
    later = NOW + timedelta(hours=1)
    scene.answer(RENAMED, "not_expected", at=later, reviewer="vera")
    scene.answer(RENAMED, "expected")  # was given before, and recorded late
    [change] = scene.rows("changes")
    assert (change.verdict, change.reviewer) == ("not_expected", "vera")
    assert len(scene.rows("review")) == 2


def test_the_same_answer_is_recorded_once(scene: Scene) -> None:
    scene.poll({0: "gender", 1: "city"})
    assert [scene.answer(RENAMED) for _ in range(3)] == [1, 0, 0]
    [review] = scene.rows("review", "review_seq, reviewer_id")
    assert review == (1, "7")


RESPONSE: dict[str, Any] = {
    "chosen_options": ["Not expected"],
    "params_input": {"ticket": " OPS-4711 ", "comment": ""},
    "responded_at": NOW,
    "responded_by_user": {"id": "7", "name": "uma"},
}


def test_a_task_records_the_answer_with_the_airflow_user(scene: Scene) -> None:
    name = scene.poll({0: "gender", 1: "town"})
    [asked] = scene.ask((name, REGION))
    for new in (2, 0):
        assert new == review_tasks.record(
            asked["region"], asked["changes"], RESPONSE, dag_run_id="review 1"
        )
    columns = "seq, verdict, reviewer, reviewer_id, ticket, comment, reviewed_at, dag_run_id"
    same = ("not_expected", "uma", "7", "OPS-4711", None, NOW, "review 1")
    assert scene.rows("review", columns) == [(3, *same), (4, *same)]


@pytest.mark.parametrize(
    ("ticket", "stored"),
    [
        ("a\x00b\ud800", "a\ufffdb?"),
        ("x" * 300, "x" * 199 + "…"),
        ("  \n", None),
        (None, None),
        (4711, "4711"),
        ("<script>'; drop table review; --", "<script>'; drop table review; --"),
    ],
)
def test_whatever_a_person_writes_is_stored(scene: Scene, ticket: Any, stored: str | None) -> None:
    scene.poll({0: "gender", 1: "city"})
    response = RESPONSE | {"params_input": {"ticket": ticket}}
    review_tasks.record(REGION, {str(scene.app): [RENAMED]}, response, dag_run_id="review 1")
    assert scene.rows("review", "ticket") == [(stored,)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"chosen_options": []},
        {"chosen_options": ["Expected", "Not expected"]},
        {"chosen_options": ["Perhaps"]},
        {"responded_by_user": None},
        {"responded_by_user": {"id": "", "name": ""}},
        {"responded_at": None},
    ],
)
def test_an_answer_without_verdict_user_or_time_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(NotAnAnswer):
        answer_of(RESPONSE | wrong, dag_run_id="review 1")
    with pytest.raises(AirflowFailException, match="Nothing was recorded"):
        review_tasks.record(REGION, {"1": [1]}, RESPONSE | wrong, dag_run_id="review 1")


#: What the writer may insert.
WRITTEN = (
    "region, sdk_app_id, seq, verdict, reviewer, reviewer_id, ticket, comment, reviewed_at, "
    "dag_run_id"
)


class Asked(Exception):
    """Airflow was asked to ask."""


class Try:
    """Tries of one task, with what Airflow keeps between them."""

    def __init__(self, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        def upsert(**_: Any) -> None:
            raise Asked

        monkeypatch.setattr(hitl, "upsert_hitl_detail", upsert)
        self.operator = ReviewOperator(
            task_id="review", options=list(OPTIONS), params=form(), **asked
        )
        self.kept: dict[str, Any] = {}
        store = SimpleNamespace(
            get=self.kept.get, set=self.kept.__setitem__, delete=self.kept.__delitem__
        )
        self.context = {
            "task_state_store": store,
            "dag_run": SimpleNamespace(run_id="review 1"),
            "task_instance": SimpleNamespace(id=1),
        }

    def ask(self) -> Any:
        return self.operator.execute(self.context)

    def resume(self, **different: Any) -> Any:
        return self.operator.execute_complete(self.context, RESPONSE | different)


def test_an_answer_is_kept_until_it_is_recorded_and_then_asked_for_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    [asked] = scene.ask((name, REGION))
    task = Try(asked, monkeypatch)
    with pytest.raises(Asked):
        task.ask()
    run(scene.db.owner, f"revoke insert ({WRITTEN}) on attr_audit.review from attr_audit_writer")
    try:
        with pytest.raises(ProgrammingError):
            task.resume()
        with pytest.raises(ProgrammingError):
            task.ask()
    finally:
        run(scene.db.owner, f"grant insert ({WRITTEN}) on attr_audit.review to attr_audit_writer")
    assert scene.rows("review") == []
    json.dumps(task.kept)  # Airflow keeps JSON
    assert task.ask() == 1
    [review] = scene.rows("review", "seq, verdict, reviewer, ticket, reviewed_at")
    assert review == (RENAMED, "not_expected", "uma", "OPS-4711", NOW)
    with pytest.raises(Asked):  # a person has cleared it
        task.ask()


@pytest.mark.parametrize(
    "wrong",
    [
        {"params_input": {"ticket": "x" * 201, "comment": ""}},
        {"responded_by_user": None},
    ],
)
def test_what_is_not_an_answer_is_not_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    name = scene.poll({0: "gender", 1: "city"})
    task = Try(scene.ask((name, REGION))[0], monkeypatch)
    with pytest.raises((AirflowFailException, ParamValidationError)):
        task.resume(**wrong)
    assert task.kept == {}
    assert scene.rows("review") == []


# What the database keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("role", ["owner", "writer"])
@pytest.mark.parametrize("table", ["attr_audit.review", "attr_audit_internal.review_request"])
@pytest.mark.parametrize("how", ["update {} set seq = 9", "delete from {}", "truncate {}"])
def test_reviews_cannot_be_rewritten(scene: Scene, role: str, table: str, how: str) -> None:
    message = refused(getattr(scene.db, role), how.format(table))
    assert "append-only" in message if role == "owner" else "permission denied" in message


@pytest.mark.parametrize("column", ["review_id", "review_seq", "recorded_at", "row_hash"])
def test_the_writer_cannot_say_what_the_database_says_of_a_review(
    scene: Scene, column: str
) -> None:
    statement = f"insert into attr_audit.review ({column}) overriding system value values (null)"
    assert "permission denied" in refused(scene.db.writer, statement)


def test_a_review_needs_a_change_and_a_time_that_has_passed(scene: Scene) -> None:
    scene.poll({0: "gender", 1: "city"})
    for seq, at, why in (
        (99, NOW, "no such change"),
        (BASELINE, NOW, "no such change"),
        (RENAMED, datetime.now(UTC) + timedelta(minutes=2), "reviewed_at_is_not_in_the_future"),
    ):
        with pytest.raises(Exception, match=why):
            scene.answer(seq, at=at)
    assert scene.rows("review") == []


FORGERIES = {
    "verdict": "verdict = 'expected'",
    "reviewer": "reviewer = 'vera'",
    "reviewer_id": "reviewer_id = null",
    "ticket": "ticket = 'OPS-2'",
    "comment": "comment = 'x'",
    "reviewed_at": "reviewed_at = reviewed_at - interval '1 microsecond'",
    "dag_run_id": "dag_run_id = 'x'",
    "recorded_at": "recorded_at = recorded_at + interval '1 microsecond'",
    "review_id": "review_id = review_id + 1000",
    "review_seq": "review_seq = 9",
    "seq": "seq = 4",
    "prev_hash": "prev_hash = '\\x00'",
}


def forge(db: AuditDb, statement: str) -> None:
    """As the owner, past the triggers."""
    run(db.owner, "alter table attr_audit.review disable trigger user")
    run(db.owner, "alter table attr_audit.review alter review_id drop identity if exists")
    run(db.owner, statement)


def review_findings(db: AuditDb) -> list[str]:
    found = check_database(db.reader).findings
    return [str(finding) for finding in found if finding.category == "review"]


def test_every_edit_of_a_review_is_found_by_verify(
    postgres: EmbeddedPostgres, template: str
) -> None:
    with fresh_audit_db(postgres, template) as db:
        months_before(db)
        scene = Scene(db)
        scene.poll({0: "gender", 1: "town"})
        for hour, seq in enumerate((3, 3, 4)):
            at = NOW + timedelta(hours=hour)
            scene.answer(seq, "not_expected", at=at, reviewer='u"\\\t\x7f\u202e', comment="\u0001")
        checked = check_database(db.reader)
        assert (checked.reviews, review_findings(db)) == (3, [])
        kept = run(
            db.owner, "create table attr_audit_internal.kept as select * from attr_audit.review"
        )
        assert kept == []
        # An edit is found at its row, or at the next one where the row itself is out of order.
        found_at = {"seq": 4, "review_seq": 4}
        for column, edit in FORGERIES.items():
            forge(db, f"update attr_audit.review set {edit} where review_seq = 2")
            [found] = review_findings(db)
            row = f"frankfurt/{scene.app} seq {found_at.get(column, 3)}"
            assert found.startswith(f"{row}: the chain of reviews is broken at review"), column
            forge(db, "delete from attr_audit.review")
            forge(db, "insert into attr_audit.review select * from attr_audit_internal.kept")
        forge(db, "delete from attr_audit.review where review_seq = 2")
        assert review_findings(db) == [
            f"frankfurt/{scene.app} seq 4: the chain of reviews is broken at review 3"
        ]
        forge(db, "delete from attr_audit.review where review_seq = 3")
        assert review_findings(db) == []


def test_a_review_of_a_change_that_is_gone_is_found_by_verify(
    postgres: EmbeddedPostgres, template: str
) -> None:
    with fresh_audit_db(postgres, template) as db:
        months_before(db)
        scene = Scene(db)
        scene.poll({0: "gender", 1: "city"})
        scene.answer(RENAMED)
        forge(db, "alter table attr_audit.change disable trigger user")
        run(db.owner, "delete from attr_audit.change where seq = 3")
        assert review_findings(db) == [
            f"frankfurt/{scene.app} seq 3: review 1 is of a change that does not exist, "
            "or of a baseline"
        ]


# Alerts ----------------------------------------------------------------------------------------


def test_a_change_that_waits_longer_is_alerted_once(scene: Scene) -> None:
    first, second = (scene.poll({0: "a", 1: "b"}), scene.poll({0: "c", 1: "b"}))
    scene.ask((first, REGION), (second, REGION))
    scene.poll({0: "d", 1: "b"})  # nobody was asked about this one
    scene.answer(RENAMED)
    now = timedelta()
    assert queue_unreviewed(scene.db.writer, timedelta(days=3), dag_run_id="audit") == 0
    queue_unreviewed(scene.db.writer, now, dag_run_id=f"late {scene.app}")
    assert queue_unreviewed(scene.db.writer, now, dag_run_id="audit") == 0
    [message] = [
        waiting
        for waiting in read_waiting(scene.db.writer, most=1000)
        if (waiting.kind, waiting.dag_run_id) == ("unreviewed", f"late {scene.app}")
    ]
    texts: list[tuple[str, str]] = []

    def send(alerts: Any, sent_to: frozenset[str]) -> Any:
        mine = [alert for alert in alerts if alert.sdk_app_id == scene.app]
        texts.append(compose(mine, base_url="https://airflow.example"))
        return SimpleNamespace(sent_to=sent_to, complete=True)

    deliver(scene.db.writer, message, send)
    [(title, body)] = texts
    assert title == "Attribute names: 2 unreviewed changes in frankfurt"
    assert 'renamed "a" → "c"' in body
    assert 'renamed "city" → "b"' in body
    assert "Required Actions of the DAG im_attr_name_review" in body
    assert "/im-attr-audit/changes?seq=5&app=frankfurt" in body
