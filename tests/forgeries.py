"""Ways to forge what was sealed, as SQL, with what `verify --checkpoints` then finds."""

from __future__ import annotations

#: Poll 3 to 8 are in seals 1 to 3, two in each; 9 and 10 are in none. So are planned 2 to 4, and 5.
POLL, CHANGE, PLANNED = "attr_audit.poll", "attr_audit.change", "attr_audit.planned"
COLUMNS = {
    "conn_id": "'x'",
    "region": "'tokyo'",
    "sdk_app_id": "8",
    "api": "'timpush'",
    "dag_run_id": "'x'",
    "try_number": "2",
    "requested_at": "requested_at - interval '1 microsecond'",
    "responded_at": "responded_at + interval '1 microsecond'",
    "outcome": "'rejected'",
    "reads": "7",
    "http_status": "500",
    "error_code": "1",
    "error_info": "'x'",
    "answer": "'x'",
    "vendor_date": "now()",
    "recorded_at": "recorded_at + interval '1 microsecond'",
    "last_requested_at": "last_requested_at - interval '1 microsecond'",
    "names_read": "9",
    "first_responded_at": "null",
    "head_seq": "1",
}
COPIED = [*COLUMNS, "poll_id"]


def copied(table: str, columns: list[str], where: str, **values: str) -> str:
    """SQL that inserts a copy of a row with other values."""
    chosen = ", ".join(values.get(column, column) for column in columns)
    return (
        f"insert into {table} ({', '.join(columns)}) overriding system value "
        f"select {chosen} from {table} where {where}"
    )


CHANGES = [
    *("change_id", "region", "sdk_app_id", "seq", "slot", "old_name", "new_name", "is_baseline"),
    *("not_before", "seen_at", "answer", "poll_id", "dag_run_id", "recorded_at", "prev_hash"),
    "row_hash",
]
REHASHED = """
    update attr_audit.change c set row_hash = sha256(convert_to(
        attr_audit_internal.change_canonical(c), 'UTF8')) where {where}"""

#: An app's whole chain, hashed again from seq 1 on as the database would have.
RECHAINED = """
    do $$ declare c attr_audit.change; before bytea; begin
      for c in select * from attr_audit.change where region = 'frankfurt' order by seq loop
        c.prev_hash := before;
        before := sha256(convert_to(attr_audit_internal.change_canonical(c), 'UTF8'));
        update attr_audit.change set prev_hash = c.prev_hash, row_hash = before
         where change_id = c.change_id;
      end loop; end $$"""

REVIEWED = """
    update attr_audit.review r set row_hash = sha256(convert_to(
        attr_audit_internal.review_canonical(r), 'UTF8')) where review_seq = 2;
    update attr_audit.review r set prev_hash = (
        select row_hash from attr_audit.review where review_seq = 2) where review_seq = 3;
    update attr_audit.review r set row_hash = sha256(convert_to(
        attr_audit_internal.review_canonical(r), 'UTF8')) where review_seq = 3"""
REVIEW_COLUMNS = [
    *("region", "sdk_app_id", "review_seq", "seq", "verdict", "reviewer", "comment", "dag_run_id"),
    *("reviewed_at", "recorded_at", "prev_hash", "row_hash"),
]
FREE = "alter table attr_audit.poll alter poll_id drop identity;"

#: What a poll is called whose app was edited.
MOVED = {"region": "tokyo/7", "sdk_app_id": "seoul/8"}
#: The first change of frankfurt in each seal.
FIRST_SEQS = ((0, 1), (1, 3), (2, 4), (3, 6))

#: Name → (statements, all that is found, the first bad row first). A poll whose head is not as it
#: was differs too.
FORGED: dict[str, tuple[str, ...]] = {
    **{
        f"a poll's {column} is edited": (
            f"update {POLL} set {column} = {value} where poll_id = 6",
            f"seal 2: poll 6 of {MOVED.get(column, 'seoul/7')} is not as it was sealed",
        )
        for column, value in COLUMNS.items()
    },
    "one poll of the first seal is gone": (
        f"delete from {POLL} where poll_id = 2",
        "seal 0: 1 poll is gone; it was after poll 1 of frankfurt/7",
    ),
    "one poll is gone": (
        f"delete from {POLL} where poll_id = 5",
        "seal 2: 1 poll is gone; it was before poll 6 of seoul/7",
    ),
    "the polls of a seal are gone": (
        f"delete from {POLL} where poll_id in (5, 6)",
        "seal 2: all 2 polls are gone",
    ),
    "all polls are gone": (
        f"truncate {POLL}",
        *(f"seal {n}: all 2 polls are gone" for n in range(4)),
    ),
    "the month's polls are dropped": (
        "do $$ begin execute 'drop table attr_audit_internal.poll_' || "
        "to_char(now() at time zone 'UTC', 'YYYY_MM'); end $$",
        *(f"seal {n}: all 2 polls are gone" for n in range(4)),
    ),
    "a poll is added among sealed ones": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="5"),
        "seal 2: poll 5 of frankfurt/7 was added after it closed",
    ),
    "a poll is added before all": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="-3"),
        "seal 0: poll -3 of frankfurt/7 was added after it closed",
    ),
    "a poll is back-dated": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "values (77, 'c', 'seoul', 7, now() - interval '1 hour', 'ok', now() - interval '1 hour')",
        "poll 77 of seoul/7 has a false date",
    ),
    "289 polls are back-dated into a gap": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "select 1000 + n, 'c', 'seoul', 7, t, 'ok', t from (select n, "
        "date_trunc('month', now(), 'UTC') + n * interval '1 second' as t "
        "from generate_series(1, 289) n) g",
        "poll 1001 of seoul/7 has a false date",
    ),
    "two polls of a seal change places": (
        f"{FREE} update {POLL} set poll_id = -poll_id where poll_id in (5, 6); "
        f"update {POLL} set poll_id = 11 + poll_id where poll_id < 0",
        "seal 2: poll 5 of seoul/7 is not as it was sealed",
    ),
    "two polls of two seals change places": (
        f"{FREE} update {POLL} set poll_id = 10 - poll_id where poll_id in (4, 6)",
        "seal 1: poll 4 of seoul/7 is not as it was sealed",
        "seal 2: poll 6 of seoul/7 is not as it was sealed",
    ),
    "a sealed poll is moved behind the seals": (
        f"{FREE} update {POLL} set poll_id = 99 where poll_id = 8",
        "seal 3: 1 poll is gone; it was after poll 7 of frankfurt/7",
    ),
    "a name is edited": (
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "seal 0: change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "a name is edited and its row hashed again": (
        f"update {CHANGE} set new_name = 'x' where change_id = 6;"
        + REHASHED.format(where="change_id = 6"),
        "seal 1: change seoul/7 seq 3 is not as it was sealed",
        "seal 2: poll 6 of seoul/7 is not as it was sealed",
    ),
    "a bound is moved": (
        f"update {CHANGE} set not_before = not_before - interval '1 hour' where change_id = 5",
        "seal 1: change frankfurt/7 seq 3 is not as it was sealed",
    ),
    "a change cites another poll": (
        f"update {CHANGE} set poll_id = 1 where change_id = 5",
        "seal 1: change frankfurt/7 seq 3 is not as it was sealed",
    ),
    "a hash is edited": (
        f"update {CHANGE} set row_hash = '\\x00' where change_id = 5",
        "seal 1: change frankfurt/7 seq 3 is not as it was sealed",
        "seal 2: poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "a change is gone": (
        f"delete from {CHANGE} where change_id = 5",
        "seal 1: 1 change is gone; it was before change seoul/7 seq 3",
        "seal 2: poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an app's last change is cut off": (
        f"delete from {CHANGE} where seq > 3",
        "seal 2: all 4 changes are gone",
        "seal 3: all 2 changes are gone",
        "seal 3: poll 7 of frankfurt/7 is not as it was sealed",
    ),
    "all changes are gone": (
        f"truncate {CHANGE}",
        *(f"seal {n}: all {4 - n % 2 * 2} changes are gone" for n in range(4)),
        *(
            f"seal {n}: poll {2 * n + 1} of frankfurt/7 is not as it was sealed"
            for n in range(1, 4)
        ),
    ),
    "a change is added before all": (
        copied(CHANGE, CHANGES, "change_id = 1", change_id="0", seq="99"),
        "seal 0: change frankfurt/7 seq 99 was added after it closed",
    ),
    "a change is back-dated": (
        copied(
            CHANGE,
            CHANGES,
            "change_id = 1",
            change_id="999",
            seq="99",
            seen_at="now() - interval '1 day'",
            recorded_at="now() - interval '1 day'",
        ),
        "change frankfurt/7 seq 99 has a false date",
    ),
    "a change is added among sealed ones": (
        f"alter table {CHANGE} alter change_id drop identity, drop constraint change_pkey; "
        f"update {CHANGE} set change_id = change_id + 1 where change_id > 5;"
        + copied(CHANGE, CHANGES, "change_id = 1", change_id="6", seq="99"),
        "seal 1: change frankfurt/7 seq 99 is not as it was sealed",
        "seal 2: change seoul/7 seq 3 is not as it was sealed",
        "seal 3: change seoul/7 seq 5 is not as it was sealed",
    ),
    "the rest of an app's chain is hashed again": (
        f"update {CHANGE} set new_name = 'x' where region = 'frankfurt' and seq = 1;" + RECHAINED,
        *(f"seal {n}: change frankfurt/7 seq {s} is not as it was sealed" for n, s in FIRST_SEQS),
        *(
            f"seal {n}: poll {2 * n + 1} of frankfurt/7 is not as it was sealed"
            for n in range(1, 4)
        ),
    ),
    "two changes change places": (
        f"alter table {CHANGE} alter change_id drop identity, drop constraint change_pkey; "
        f"update {CHANGE} set change_id = 11 - change_id where change_id in (5, 6)",
        "seal 1: change seoul/7 seq 3 is not as it was sealed",
    ),
    "a planned target is edited": (
        f"update {PLANNED} set conn_ids[1] = 'x' where planned_id = 2",
        "seal 1: planned target x of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target's app is edited": (
        f"update {PLANNED} set sdk_app_ids[2] = 8 where planned_id = 2",
        "seal 1: planned target im_seoul_7 of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target is taken out": (
        f"update {PLANNED} set conn_ids = conn_ids[2:], regions = regions[2:], "
        "sdk_app_ids = sdk_app_ids[2:] where planned_id = 2",
        "seal 1: 1 planned target is gone; it was before planned target im_seoul_7 of run",
    ),
    "a planned target is added": (
        f"update {PLANNED} set conn_ids = array_append(conn_ids, 'y'), "
        "regions = array_append(regions, 'y'), sdk_app_ids = array_append(sdk_app_ids, 9) "
        "where planned_id = 2",
        "seal 1: planned target y of run run 1 (planned_id 2) was added after it closed",
    ),
    "planned targets change places": (
        f"update {PLANNED} set conn_ids = array[conn_ids[2], conn_ids[1]], "
        "regions = array[regions[2], regions[1]] where planned_id = 2",
        "seal 1: planned target im_seoul_7 of run run 1 (planned_id 2) is not at its place: rows",
    ),
    "a plan is added among sealed ones": (
        f"alter table {PLANNED} drop constraint planned_pkey, alter planned_id drop identity; "
        f"update {PLANNED} set planned_id = planned_id + 1 where planned_id > 2; "
        f"insert into {PLANNED} (planned_id, dag_run_id, conn_ids, regions, sdk_app_ids, "
        "recorded_at) overriding system value values (3, 'x', '{a}', '{b}', '{1}', now())",
        "seal 2: 1 planned target is gone; it was before planned target a of run x",
        "seal 3: planned target im_frankfurt_7 of run run 2 (planned_id 4) is not as it was sealed",
    ),
    "the plans of two runs change places": (
        f"alter table {PLANNED} drop constraint planned_pkey, alter planned_id drop identity; "
        f"update {PLANNED} set planned_id = 5 - planned_id where planned_id in (2, 3)",
        "seal 1: planned target im_frankfurt_7 of run run 2 (planned_id 2) is not as it was sealed",
        "seal 2: planned target im_frankfurt_7 of run run 1 (planned_id 3) is not as it was sealed",
    ),
    "the plan of a run is gone": (
        f"delete from {PLANNED} where planned_id = 2",
        "seal 1: all 2 planned targets are gone",
    ),
    "the plan of a run is of another one": (
        f"update {PLANNED} set dag_run_id = 'x' where planned_id = 2",
        "seal 1: planned target im_frankfurt_7 of run x (planned_id 2) is not as it was sealed",
    ),
    "a plan is back-dated": (
        f"insert into {PLANNED} (planned_id, dag_run_id, conn_ids, regions, sdk_app_ids, "
        "recorded_at) overriding system value values (9, 'x', '{a}', '{b}', '{1}', "
        "now() - interval '1 day')",
        "planned target a of run x (planned_id 9) has a false date",
    ),
    "all plans are gone": (
        f"truncate {PLANNED}",
        *(f"seal {n}: all 2 planned targets are gone" for n in range(4)),
    ),
    "a review's comment is edited": (
        "update attr_audit.review set comment = 'x' where review_seq = 1",
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a review is edited and its chain hashed again": (
        "update attr_audit.review set verdict = 'not_expected' where review_seq = 2;" + REVIEWED,
        "seal 2: review 2 of frankfurt/7 is not as it was sealed",
    ),
    "a review is gone": (
        "delete from attr_audit.review where review_seq = 2",
        "seal 2: review 2 of frankfurt/7 is not as it was sealed",
    ),
    "the last reviews are gone": (
        "delete from attr_audit.review where review_seq > 1",
        "seal 2: review 2 of frankfurt/7 is gone",
    ),
    "all reviews are gone": (
        "truncate attr_audit.review",
        "seal 1: review 1 of frankfurt/7 is gone",
    ),
    "a review is put before all": (
        "update attr_audit.review set review_seq = -review_seq; "
        "update attr_audit.review set review_seq = 1 - review_seq;"
        + copied("attr_audit.review", REVIEW_COLUMNS, "review_seq = 2", review_seq="1", seq="5"),
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a review is back-dated": (
        copied(
            "attr_audit.review",
            REVIEW_COLUMNS,
            "review_seq = 1",
            review_seq="4",
            seq="5",
            recorded_at="recorded_at - interval '1 day'",
            reviewed_at="reviewed_at - interval '1 day'",
        ),
        "review 4 of frankfurt/7 has a false date: it is in no seal yet",
    ),
    "two reviews change places": (
        "update attr_audit.review set review_seq = -review_seq where review_seq < 3; "
        "update attr_audit.review set review_seq = 3 + review_seq where review_seq < 0",
        "seal 1: review 1 of frankfurt/7 is not as it was sealed",
    ),
    "a declaration is edited": (
        "update attr_audit.declaration set document = '{}' where declaration_id = 1",
        "seal 1: declaration 1 is not as it was sealed",
    ),
    "a declaration is moved in time": (
        "update attr_audit.declaration set recorded_at = recorded_at - interval '1 second' "
        "where declaration_id = 2",
        "seal 2: declaration 2 is not as it was sealed",
    ),
    "a declaration is gone": (
        "delete from attr_audit.declaration where declaration_id = 2",
        "seal 2: declaration 2 is gone",
    ),
    "two declarations change places": (
        "alter table attr_audit.declaration drop constraint declaration_pkey, "
        "alter declaration_id drop identity; "
        "update attr_audit.declaration set declaration_id = 3 - declaration_id "
        "where declaration_id in (1, 2)",
        *(f"seal {n}: declaration {n} is not as it was sealed" for n in (1, 2)),
    ),
    "a declaration is added before all": (
        "insert into attr_audit.declaration (declaration_id, recorded_at, source, digest, document)"
        " overriding system value values (0, now() - interval '1 day', 'x', '', '{}')",
        "declaration 0 has a false date: it is in no seal yet",
    ),
    "all declarations are gone": (
        "truncate attr_audit.declaration",
        *(f"seal {n}: declaration {n} is gone" for n in (1, 2)),
    ),
    "a declaration is back-dated": (
        "insert into attr_audit.declaration (declaration_id, recorded_at, source, digest, document)"
        " overriding system value values (99, now() - interval '1 day', 'x', '', '{}')",
        "declaration 99 has a false date: it is in no seal yet",
    ),
    "an edit behind a replaced trigger": (
        "create or replace function attr_audit_internal.refuse_rewriting() returns trigger "
        "language plpgsql as 'begin return null; end'; "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "seal 2: poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind a replaced function of the chain": (
        "create or replace function attr_audit.verify_chain() returns table (region text, "
        "sdk_app_id bigint, rows_checked bigint, ok boolean, first_bad_seq bigint, head_seq bigint,"
        " head_hash bytea) language sql stable as 'select null::text, 1::bigint, 1::bigint, true,"
        " 1::bigint, 1::bigint, null::bytea'; "
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "seal 0: change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "an edit behind replaced functions of the seals": (
        "create or replace function attr_audit_internal.begin_seal() returns void "
        "language sql as ''; drop function attr_audit_internal.close_seal(); "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "seal 2: poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind replaced views": (
        "drop view attr_audit.changes cascade; "
        "create view attr_audit.changes as select 'all is well' as seen_at; "
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "seal 0: change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "an edit behind an operator of a schema before": (
        "create function attr_audit.never(bigint, bigint) returns boolean language sql immutable "
        "as 'select false'; create operator attr_audit.> (function = attr_audit.never, "
        f"leftarg = bigint, rightarg = bigint); delete from {POLL} where poll_id = 5",
        "seal 2: 1 poll is gone; it was before poll 6 of seoul/7",
    ),
    "an edit behind dropped triggers and constraints": (
        f"drop trigger append_only on {CHANGE}; alter table {CHANGE} drop constraint "
        f"one_chain_per_app; update {CHANGE} set seq = 7 where change_id = 2",
        "seal 0: change frankfurt/7 seq 7 is not as it was sealed",
        "seal 1: poll 3 of frankfurt/7 is not as it was sealed",
    ),
    "the copy of a seal is edited": (
        "update attr_audit.seal set leaf = replace(leaf, 'run 1', 'run 7') where n = 1",
        "attr_audit.seal: row 1 is not the seal that was signed",
    ),
    "a false seal is put behind the copy": (
        "insert into attr_audit.seal (origin, n, leaf, note, last_poll_id, last_change_id, "
        "last_planned_id, marks) values ('example.com/audit', 4, '[]', 'x', 0, 0, 0, '')",
        "attr_audit.seal: row 4: ",
    ),
    "the copy of a checkpoint is edited": (
        "update attr_audit.seal set note = replace(note, 'example.com', 'example.org') where n = 1",
        "attr_audit.seal: row 1: ",
    ),
}
OWNERS = """
set local role attr_audit_owner;
do $$ declare t regclass; begin
  for t in select c.oid from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where nspname in ('attr_audit', 'attr_audit_internal') and relkind in ('r', 'p') loop
    execute format('alter table %%s disable trigger user', t);
  end loop; end $$;
"""
#: Ways to have a reader see something else than what is stored; `verify` refuses to read at all.
DISGUISED = {
    "polls are shown by a view": (
        f"create table attr_audit.hidden as select * from {POLL}; drop table {POLL} cascade; "
        f"create view {POLL} as select * from attr_audit.hidden",
        "attr_audit.poll cannot be verified: it is not a",
    ),
    "changes are shown by a view": (
        f"alter table {CHANGE} rename to old; create view {CHANGE} as select * from attr_audit.old",
        "attr_audit.change cannot be verified: it is not a",
    ),
    "changes are hidden by row-level security": (
        f"alter table {CHANGE} enable row level security",
        "attr_audit.change cannot be verified: row-level security is on",
    ),
    "planned targets are hidden by row-level security": (
        f"alter table {PLANNED} enable row level security",
        "attr_audit.planned cannot be verified: row-level security is on",
    ),
    "a column is of another type": (
        f"alter table {PLANNED} alter dag_run_id type varchar",
        "column dag_run_id is missing or not of the type text",
    ),
    "the reviews are gone with their table": (
        "drop table attr_audit.review cascade",
        "attr_audit.review cannot be verified: it does not exist",
    ),
}

#: Table → what is done to it → the names of it in FORGED.
MATRIX = {
    "poll": {
        "edit": [f"a poll's {column} is edited" for column in COLUMNS],
        "delete": [
            *("one poll is gone", "one poll of the first seal is gone"),
            "the polls of a seal are gone",
        ],
        "insert": ["a poll is added among sealed ones", "a poll is added before all"],
        "back-date": ["a poll is back-dated", "289 polls are back-dated into a gap"],
        "swap": [
            "two polls of a seal change places",
            "two polls of two seals change places",
            "a sealed poll is moved behind the seals",
        ],
        "truncate": ["all polls are gone", "the month's polls are dropped"],
    },
    "change": {
        "edit": [
            "a name is edited",
            "a bound is moved",
            "a change cites another poll",
            "a hash is edited",
        ],
        "delete": ["a change is gone", "an app's last change is cut off"],
        "insert": ["a change is added among sealed ones", "a change is added before all"],
        "back-date": ["a change is back-dated"],
        "swap": ["two changes change places"],
        "truncate": ["all changes are gone"],
        "hash again": [
            "a name is edited and its row hashed again",
            "the rest of an app's chain is hashed again",
        ],
    },
    "planned": {
        "edit": [
            "a planned target is edited",
            "a planned target's app is edited",
            "the plan of a run is of another one",
        ],
        "delete": ["a planned target is taken out", "the plan of a run is gone"],
        "insert": ["a planned target is added", "a plan is added among sealed ones"],
        "back-date": ["a plan is back-dated"],
        "swap": ["planned targets change places", "the plans of two runs change places"],
        "truncate": ["all plans are gone"],
    },
    "review": {
        "edit": ["a review's comment is edited"],
        "delete": ["a review is gone", "the last reviews are gone"],
        "insert": ["a review is put before all"],
        "back-date": ["a review is back-dated"],
        "swap": ["two reviews change places"],
        "truncate": ["all reviews are gone"],
        "hash again": ["a review is edited and its chain hashed again"],
    },
    "declaration": {
        "edit": ["a declaration is edited", "a declaration is moved in time"],
        "delete": ["a declaration is gone"],
        "insert": ["a declaration is added before all"],
        "back-date": ["a declaration is back-dated"],
        "swap": ["two declarations change places"],
        "truncate": ["all declarations are gone"],
    },
    "seal": {
        "edit": ["the copy of a seal is edited", "the copy of a checkpoint is edited"],
        "insert": ["a false seal is put behind the copy"],
    },
}
ACTORS = {"superuser": "set local session_replication_role = replica;", "owner": OWNERS}
