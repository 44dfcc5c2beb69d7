"""Twenty days of a made-up product in six regions, for the page to show; ends now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from im_attr_audit.declared.parse import parse
from im_attr_audit.errors import Misconfigured, PollFailed, Rejected, Unavailable
from im_attr_audit.record.declarations import record_declaration
from im_attr_audit.record.reviews import Answer, record_answer
from im_attr_audit.record.store import record_polls
from sqlalchemy import Engine, text

from tests.history import NamesLike, polled

APPS = {
    "china": 1400900001,
    "singapore": 20900002,
    "seoul": 20900003,
    "frankfurt": 20900004,
    "silicon_valley": 1721900005,
    "jakarta": 20900006,
}
PUSH = {"frankfurt": 20900104, "singapore": 20900102}
BASE: NamesLike = {0: "sex", 1: "city", 2: "Membership level", 3: "signup channel"}

#: Names that try to be something else.
HOSTILE: NamesLike = {
    0: "<script>window.owned=1</script>",
    1: '"><img src=x onerror="window.owned=1">',
    2: "'; drop table attr_audit.change; --",
    3: "\u202egnp.exe",
    4: "🙂" * 12 + "é",
    5: "=HYPERLINK(0)",
    6: "",
    7: " city ",
    8: "{{constructor.constructor('window.owned=1')()}}",
    9: "zero\u200bwidth\ttab\x1b[31m",
}


def run_id(at: datetime) -> str:
    return f"manual__{at.isoformat()}"


class Story:
    """Records polls as the DAG would have, at times that have passed."""

    def __init__(self, engine: Engine, owner: Engine) -> None:
        self.engine = engine
        self.now = _now(engine)
        with owner.begin() as connection:
            for days in (0, 31, 62):
                connection.execute(
                    text("select attr_audit_internal.create_poll_partition(cast(:day as date))"),
                    {"day": self.now - timedelta(days=days)},
                )

    def poll(
        self,
        ago: timedelta,
        answers: Mapping[tuple[str, int], NamesLike | PollFailed | Misconfigured],
        *,
        app_group: str = "shop",
        api: str = "all_member_push",
    ) -> str:
        """One run that asked these apps; a changed answer is read twice, as it must be."""
        at = self.now - ago
        polls = []
        for (region, number), said in answers.items():
            common: dict[str, Any] = {
                "at": at, "region": region, "sdk_app_id": number, "app_group": app_group,
                "api": api, "conn_id": f"im_{region}_{number}",
            }  # fmt: skip
            if isinstance(said, PollFailed | Misconfigured):
                polls.append(polled(failure=said, **common))
            else:
                polls.append(polled(said, said, **common))
        record_polls(self.engine, polls, dag_run_id=run_id(at), try_number=1)
        return run_id(at)


def _now(engine: Engine) -> datetime:
    with engine.connect() as connection:
        at = connection.execute(text("select date_trunc('second', now())")).scalar_one()
    assert isinstance(at, datetime)
    return at


def record_story(engine: Engine, owner: Engine) -> dict[str, str]:
    """The story; gives the run ids of its events by name."""
    story = Story(engine, owner)
    names: dict[tuple[str, int], dict[int, str | tuple[str, int | None]]] = {
        app: dict(BASE) for app in APPS.items()
    }
    names["china", APPS["china"]][2] = "会员等级"
    push = {app: {0: ("UserID", 0), 1: ("token", 1)} for app in PUSH.items()}
    runs: dict[str, str] = {}

    def all_of_them(ago: timedelta) -> str:
        story.poll(ago, push, app_group="push", api="timpush")
        return story.poll(ago, names)

    def change(event: str, ago: timedelta, region: str, slot: int, name: str | None) -> None:
        all_of_them(ago + timedelta(minutes=15))
        mine = names[region, APPS[region]]
        if name is None:
            del mine[slot]
        else:
            mine[slot] = name
        runs[event] = all_of_them(ago)

    day, hour = timedelta(days=1), timedelta(hours=1)
    runs["baseline"] = all_of_them(20 * day)
    change("renamed", 14 * day, "frankfurt", 2, "Loyalty tier")
    change("added", 11 * day, "seoul", 4, "language")
    change("added_again", 9 * day, "singapore", 4, "language")
    change("removed", 8 * day, "china", 3, None)
    change("back", 6 * day, "china", 3, "signup channel")
    all_of_them(5 * day)
    all_of_them(4.5 * day)
    all_of_them(3 * day + timedelta(minutes=15))
    push["frankfurt", PUSH["frankfurt"]] = {0: ("UserID", 0), 1: ("token", 0)}
    runs["retyped"] = all_of_them(3 * day)
    all_of_them(2 * day)
    jakarta = ("jakarta", APPS["jakarta"])
    away = names.pop(jakarta)
    for passed in range(1, 9):
        story.poll(
            2 * day - passed * hour, {jakarta: Unavailable("502 Bad Gateway", http_status=502)}
        )
        all_of_them(2 * day - passed * hour)
    away[1] = "home city"
    names[jakarta] = away
    runs["wide"] = all_of_them(2 * day - 9 * hour)
    change("renamed_again", day, "frankfurt", 2, "Loyalty tier 2")
    all_of_them(5 * hour)
    valley = ("silicon_valley", APPS["silicon_valley"])
    names.pop(valley)
    refusal = Rejected("The signature fails the check", http_status=200, error_code=70009)
    for hours in (4.75, 4, 3, 2, 1, 0.5):
        story.poll(hours * hour, {valley: refusal})
    all_of_them(timedelta(minutes=20))
    runs["failed"] = story.poll(timedelta(minutes=3), {valley: refusal})
    runs["newest"] = all_of_them(timedelta(minutes=3))
    _quiet_polls(owner, story.now)
    return runs


def _quiet_polls(owner: Engine, now: datetime) -> None:
    """Every quarter of an hour, where nothing happened; the DAG was off for half a day."""
    with owner.begin() as connection:
        connection.execute(
            text(
                "insert into attr_audit.poll (conn_id, region, sdk_app_id, api, dag_run_id, "
                "try_number, requested_at, last_requested_at, responded_at, outcome, reads, "
                "http_status) "
                "select a.conn_id, a.region, a.sdk_app_id, a.api, 'scheduled__' || t, 1, t, t, "
                "       t + interval '0.2 s', 'ok', 1, 200 "
                "  from attr_audit.app a, generate_series(cast(:now as timestamptz) "
                "       - interval '20 days' + interval '7 min', :now, interval '15 min') t "
                " where not t between :now - interval '5 days' and :now - interval '4.5 days' "
                "   and not (a.region = 'jakarta' and t between :now - interval '2 days' "
                "            and :now - interval '39 hours') "
                "   and not (a.region = 'silicon_valley' and t > :now - interval '5 hours')"
            ),
            {"now": now},
        )
        # The gaps that recording noted are those between the polls before these came.
        connection.execute(text("delete from attr_audit_internal.noted_gap"))
        connection.execute(text("delete from attr_audit_internal.gaps_noted"))
        connection.execute(text("select attr_audit_internal.note_earlier_gaps()"))


def record_hostile(engine: Engine, owner: Engine) -> None:
    """One app whose names try to be something else, in a region and a group that do too."""
    story = Story(engine, owner)
    app = ('<b title="x">own', 7)
    story.poll(timedelta(hours=2), {app: {0: "sex"}}, app_group="<i>group</i>")
    story.poll(timedelta(minutes=2), {app: HOSTILE}, app_group="<i>group</i>")
    group = {"names": {"0": "<b>sex</b>"}, "other_slots": "forbidden"}
    declared = json.dumps({"groups": {"<i>group</i>": group}})
    record_declaration(
        engine, parse(declared, "<u>file").declaration, source="<u>file", revision=None,
        text_digest=None, dag_run_id="r",
    )  # fmt: skip
    markup = Answer("expected", "<i>uma</i>", "7", "<b>T-1</b>", None, story.now, "r")
    record_answer(engine, app[0], {app[1]: [2]}, markup)
