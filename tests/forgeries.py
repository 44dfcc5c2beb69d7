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

#: Name → (statements, what is found).
FORGED: dict[str, tuple[str, str]] = {
    **{
        f"a poll's {column} is edited": (
            f"update {POLL} set {column} = {value} where poll_id = 6",
            "seal 2, closed at",
        )
        for column, value in COLUMNS.items()
    },
    "one poll of the first seal is gone": (
        f"delete from {POLL} where poll_id = 2",
        "1 polls are gone, the first after poll 1 of frankfurt/7",
    ),
    "one poll is gone": (
        f"delete from {POLL} where poll_id = 5",
        "1 polls are gone, the first before poll 6 of seoul/7",
    ),
    "the polls of a seal are gone": (
        f"delete from {POLL} where poll_id in (5, 6)",
        "2 polls are gone, the first all of them",
    ),
    "all polls are gone": (f"truncate {POLL}", "seal 0, closed at"),
    "the month's polls are dropped": (
        "do $$ begin execute 'drop table attr_audit_internal.poll_' || "
        "to_char(now() at time zone 'UTC', 'YYYY_MM'); end $$",
        "2 polls are gone, the first all of them",
    ),
    "a poll is added among sealed ones": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="5"),
        "poll 5 of",
    ),
    "a poll is added before all": (
        copied(POLL, COPIED, "poll_id = 9", poll_id="-3"),
        "poll -3 of frankfurt/7 was added after it closed",
    ),
    "a poll is back-dated": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "values (77, 'c', 'seoul', 7, now() - interval '1 hour', 'ok', now() - interval '1 hour')",
        "poll 77 of seoul/7 is dated falsely",
    ),
    "289 polls are back-dated into a gap": (
        f"insert into {POLL} (poll_id, conn_id, region, sdk_app_id, requested_at, outcome, "
        "recorded_at) overriding system value "
        "select 1000 + n, 'c', 'seoul', 7, t, 'ok', t from (select n, "
        "date_trunc('month', now(), 'UTC') + n * interval '1 second' as t "
        "from generate_series(1, 289) n) g",
        "poll 1001 of seoul/7 is dated falsely",
    ),
    "two polls of a seal change places": (
        f"{FREE} update {POLL} set poll_id = -poll_id where poll_id in (5, 6); "
        f"update {POLL} set poll_id = 11 + poll_id where poll_id < 0",
        "is not as it was sealed",
    ),
    "two polls of two seals change places": (
        f"{FREE} update {POLL} set poll_id = 10 - poll_id where poll_id in (4, 6)",
        "seal 1, closed at",
    ),
    "a sealed poll is moved behind the seals": (
        f"{FREE} update {POLL} set poll_id = 99 where poll_id = 8",
        "seal 3, closed at",
    ),
    "a name is edited": (
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "a name is edited and its row hashed again": (
        f"update {CHANGE} set new_name = 'x' where change_id = 6;"
        + REHASHED.format(where="change_id = 6"),
        "seq 3 is not as it was sealed",
    ),
    "a bound is moved": (
        f"update {CHANGE} set not_before = not_before - interval '1 hour' where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a change cites another poll": (
        f"update {CHANGE} set poll_id = 1 where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a hash is edited": (
        f"update {CHANGE} set row_hash = '\\x00' where change_id = 5",
        "seq 3 is not as it was sealed",
    ),
    "a change is gone": (f"delete from {CHANGE} where change_id = 5", "1 changes are gone"),
    "an app's last change is cut off": (
        f"delete from {CHANGE} where seq > 3",
        "changes are gone",
    ),
    "all changes are gone": (f"truncate {CHANGE}", "changes are gone, the first all of them"),
    "a change is added before all": (
        copied(CHANGE, CHANGES, "change_id = 1", change_id="0", seq="99"),
        "change frankfurt/7 seq 99 was added after it closed",
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
        "change frankfurt/7 seq 99 is dated falsely",
    ),
    "two changes change places": (
        f"alter table {CHANGE} alter change_id drop identity, drop constraint change_pkey; "
        f"update {CHANGE} set change_id = 11 - change_id where change_id in (5, 6)",
        "is not as it was sealed",
    ),
    "a planned target is edited": (
        f"update {PLANNED} set conn_ids[1] = 'x' where planned_id = 2",
        "planned target x of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target's app is edited": (
        f"update {PLANNED} set sdk_app_ids[2] = 8 where planned_id = 2",
        "planned target im_seoul_7 of run run 1 (planned_id 2) is not as it was sealed",
    ),
    "a planned target is taken out": (
        f"update {PLANNED} set conn_ids = conn_ids[2:], regions = regions[2:], "
        "sdk_app_ids = sdk_app_ids[2:] where planned_id = 2",
        "1 planned targets are gone",
    ),
    "a planned target is added": (
        f"update {PLANNED} set conn_ids = array_append(conn_ids, 'y'), "
        "regions = array_append(regions, 'y'), sdk_app_ids = array_append(sdk_app_ids, 9) "
        "where planned_id = 2",
        "planned target y of run run 1 (planned_id 2) was added after it closed",
    ),
    "planned targets change places": (
        f"update {PLANNED} set conn_ids = array[conn_ids[2], conn_ids[1]], "
        "regions = array[regions[2], regions[1]] where planned_id = 2",
        "is not at its place: rows were put in another order",
    ),
    "the plan of a run is gone": (
        f"delete from {PLANNED} where planned_id = 2",
        "2 planned targets are gone",
    ),
    "the plan of a run is of another one": (
        f"update {PLANNED} set dag_run_id = 'x' where planned_id = 2",
        "of run x (planned_id 2) is not as it was sealed",
    ),
    "a plan is back-dated": (
        f"insert into {PLANNED} (planned_id, dag_run_id, conn_ids, regions, sdk_app_ids, "
        "recorded_at) overriding system value values (9, 'x', '{a}', '{b}', '{1}', "
        "now() - interval '1 day')",
        "is dated falsely",
    ),
    "all plans are gone": (f"truncate {PLANNED}", "planned targets are gone"),
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
        "review 4 of frankfurt/7 is dated falsely: it is in no seal yet",
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
    "all declarations are gone": (
        "truncate attr_audit.declaration",
        "seal 1: declaration 1 is gone",
    ),
    "a declaration is back-dated": (
        "insert into attr_audit.declaration (declaration_id, recorded_at, source, digest, document)"
        " overriding system value values (99, now() - interval '1 day', 'x', '', '{}')",
        "declaration 99 is dated falsely: it is in no seal yet",
    ),
    "an edit behind a replaced trigger": (
        "create or replace function attr_audit_internal.refuse_rewriting() returns trigger "
        "language plpgsql as 'begin return null; end'; "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind a replaced function of the chain": (
        "create or replace function attr_audit.verify_chain() returns table (region text, "
        "sdk_app_id bigint, rows_checked bigint, ok boolean, first_bad_seq bigint, head_seq bigint,"
        " head_hash bytea) language sql stable as 'select null::text, 1::bigint, 1::bigint, true,"
        " 1::bigint, 1::bigint, null::bytea'; "
        f"update {CHANGE} set new_name = 'x' where change_id = 1",
        "change frankfurt/7 seq 1 is not as it was sealed",
    ),
    "an edit behind replaced functions of the seals": (
        "create or replace function attr_audit_internal.begin_seal() returns void "
        "language sql as ''; drop function attr_audit_internal.close_seal(); "
        f"update {POLL} set outcome = 'late' where poll_id = 5",
        "poll 5 of frankfurt/7 is not as it was sealed",
    ),
    "an edit behind an operator of a schema before": (
        "create function attr_audit.never(bigint, bigint) returns boolean language sql immutable "
        "as 'select false'; create operator attr_audit.> (function = attr_audit.never, "
        f"leftarg = bigint, rightarg = bigint); delete from {POLL} where poll_id = 5",
        "1 polls are gone",
    ),
    "an edit behind dropped triggers and constraints": (
        f"drop trigger append_only on {CHANGE}; alter table {CHANGE} drop constraint "
        f"one_chain_per_app; update {CHANGE} set seq = 7 where change_id = 2",
        "change frankfurt/7 seq 7 is not as it was sealed",
    ),
    "the copy of a seal is edited": (
        "update attr_audit.seal set leaf = replace(leaf, 'run 1', 'run 7') where n = 1",
        "attr_audit.seal: row 1 is not the seal that was signed",
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
ACTORS = {"superuser": "set local session_replication_role = replica;", "owner": OWNERS}
