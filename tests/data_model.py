"""Writes what docs and bi/ take from the database: `python -m tests.data_model`.

That is docs/data-model.md, docs/bi.md, the dbt package's sources and the Superset dashboard.
Tables come from the migrated database's own comments, outputs from the real psql as the reader, in
the scripted week of tests/story.py and the scripted quarter of tests/quarter.py. Tests do the same
and compare.
"""

from __future__ import annotations

import json
import re
import tempfile
import textwrap
from pathlib import Path

from launch.postgres import THROWAWAY, EmbeddedPostgres
from tests import story, superset_charts, superset_export
from tests.psql import QUERIES, psql
from tests.quarter import quarter

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data-model.md"
BI_PAGE = PAGE.with_name("bi.md")
QUESTIONS = sorted((QUERIES.parent / "questions").glob("*.sql"))
DBT_SOURCES = PAGE.parents[1] / "bi" / "dbt" / "models" / "sources.yml"
SUPERSET = PAGE.parents[1] / "bi" / "superset"
COMMAND = "python -m tests.data_model"

#: The end of the scripted week plays the part of now; every query in the order of the page.
NOW = "2026-11-04 00:00Z"
SHOWN: dict[str, dict[str, str]] = {
    "slot_everywhere_now": {},
    "slot_on_a_date": {"at": "2026-10-29 09:30Z"},
    "changes_last_week": {"until": NOW},
    "who_saw_it_first": {},
    "regions_with_drift": {},
    "names_ever_used": {},
    "how_long_names_lived": {"region": "seoul"},
    "stale_apps": {"at": NOW},
    "failed_polls_per_day": {"until": NOW},
    "gaps_in_knowledge": {"at": NOW},
    "names_no_longer_there": {"names": '["Membership level", "city", "birthdate"]'},
    "export_for_auditor": {},
}

#: The column to filter by, which is never null.
NEVER_NULL = {
    "changes": "seen_at",
    "polls": "requested_at",
    "drift_episodes": "began_seen_at",
    "coverage_by_month": "month",
    "violations": "since",
    "unreviewed_changes": "seen_at",
}

_FRESHNESS = [
    "        config:",
    "          # Of the stalest app. Without this query dbt takes the newest time of all apps.",
    '          loaded_at_query: "select min(now() - age) from {{ this }}"',
    "          freshness:",
    "            error_after: {count: 1, period: hour}",
]

_MARKED = re.compile(
    r"(?P<begin><!-- generated: (?P<what>\w+)(?P<rest>.*?)-->\n).*?(?P<end><!-- end -->)", re.DOTALL
)


class Page:
    """The page's generated parts, from one database."""

    def __init__(self, server: EmbeddedPostgres, week: str) -> None:
        self._server = server
        self._week = week

    def regenerate(self, page: str) -> str:
        """The page with every generated part up to date."""

        def generated(marked: re.Match[str]) -> str:
            part = getattr(self, marked["what"])(marked["rest"].strip())
            return f"{marked['begin']}{part.strip()}\n{marked['end']}"

        return _MARKED.sub(generated, page)

    def dbt_sources(self) -> str:
        """Every relation of the reader as a source of dbt, with its comments."""
        lines = [
            f"# Written by `{COMMAND}` from the database's own comments.",
            "sources:",
            "  - name: attr_audit",
            "    description: The record of im-attr-audit. Functions are in docs/data-model.md.",
            "    schema: \"{{ var('attr_audit_schema') }}\"",
            "    tables:",
        ]
        for [name, comment] in self._rows(_RELATIONS):
            lines += [f"      - name: {name}", f"        description: {json.dumps(comment)}"]
            lines += _FRESHNESS if name == "freshness" else []
            lines += ["        columns:"]
            for column, _, said in self._rows(_COLUMNS, name=f"attr_audit.{name}"):
                lines += [
                    f"          - name: {column}",
                    f"            description: {json.dumps(said)}",
                ]
                if column == NEVER_NULL.get(name):
                    lines += ["            data_tests: [not_null]"]
        return "\n".join(lines) + "\n"

    def superset(self) -> dict[str, str]:
        """The files of bi/superset by path."""
        columns = {}
        for name, dataset in superset_charts.DATASETS.items():
            if dataset.sql is None:
                columns[name] = self._rows(_COLUMNS, name=f"attr_audit.{name}")
            else:
                described = f"{dataset.sql} limit 0 \\gdesc"
                columns[name] = [[*pair, ""] for pair in self._rows(described)]
        return superset_export.export(
            {
                name: [(column, type_.removesuffix(", null"), said) for column, type_, said in rows]
                for name, rows in columns.items()
            }
        )

    # What a marker may name; each takes the rest of the marker.

    def relation(self, name: str) -> str:
        """A table's or view's comment, columns and constraints."""
        [[comment]] = self._rows(
            "select obj_description(:'name'::regclass, 'pg_class')", name=f"attr_audit.{name}"
        )
        columns = self._rows(_COLUMNS, name=f"attr_audit.{name}")
        constraints = self._rows(_CONSTRAINTS, name=f"attr_audit.{name}")
        lines = [f"### {name}", "", comment, "", "| column | type | |", "|---|---|---|"]
        lines += [f"| `{n}` | {type_} | {_cell(said)} |" for n, type_, said in columns]
        if constraints:
            lines += ["", "Constraints:", ""]
            lines += [f"- `{n}`: `{definition}`" for n, definition in constraints]
        return "\n".join(lines)

    def function(self, name: str) -> str:
        """A function's comment and columns."""
        [[arguments, comment]] = self._rows(_FUNCTION, name=name)
        overloads = self._rows(_OVERLOADS, name=name)
        takes = "; or ".join([arguments or "nothing", *(each for [each] in overloads)])
        columns = self._rows(_RESULT, name=name)
        lines = [f"### {name}()", "", comment, "", f"Takes: {takes}.", ""]
        lines += ["| column | type |", "|---|---|"]
        lines += [f"| `{column}` | {type_} |" for column, type_ in columns]
        return "\n".join(lines)

    def example(self, statement: str) -> str:
        """A statement and what psql prints for it."""
        return f"```sql\n{statement}\n```\n\n```text\n{self._printed(statement)}\n```"

    def queries(self, _: str) -> str:
        """Every query with its question and its output."""
        return "\n\n".join(self._query(name, variables) for name, variables in SHOWN.items())

    def types(self, _: str) -> str:
        """Where the types are that some tools cannot read."""
        named = ", ".join(f"`{name}`" for [name] in self._rows(_AWKWARD))
        return textwrap.fill(
            "**Some tools cannot read `interval`, `jsonb`, `bytea` and arrays.** These have a "
            f"column of such a type: {named}. The other relations have seconds and hexadecimal "
            "text instead. Cast such a column, for example `extract(epoch from age)::float8` or "
            "`encode(row_hash, 'hex')`. polars panics on an `interval`.",
            108,
            break_long_words=False,
            break_on_hyphens=False,
        )

    def questions(self, _: str) -> str:
        """Every question with its query and the output."""
        return "\n\n".join(map(self._question, QUESTIONS))

    def _question(self, file: Path) -> str:
        question, query = file.read_text(encoding="utf-8").strip().split("\n", 1)
        return (
            f"### {int(file.stem[:2])}. {question.removeprefix('-- ')}\n\n"
            f"```sql\n{query}\n```\n\n```text\n{self._printed(query)}\n```\n\n"
            f"[{file.name}](../sql/questions/{file.name})"
        )

    def _query(self, name: str, variables: dict[str, str]) -> str:
        script = (QUERIES / f"{name}.sql").read_text(encoding="utf-8")
        question = script.splitlines()[0].removeprefix("-- ")
        printed = self._printed(script, **variables)
        if name == "export_for_auditor":
            lines = printed.splitlines()
            printed = "\n".join([*lines[:3], f"… {len(lines) - 3} more rows"])
        given = "".join(f" -v {key}={_shell(value)}" for key, value in variables.items())
        return (
            f"### {question}\n\n[{name}.sql](../sql/queries/{name}.sql)"
            f"{f', with `{given.strip()}`' if given else ''}\n\n```text\n{printed}\n```"
        )

    def _printed(self, script: str, **variables: str) -> str:
        printed = psql(self._server, self._week, script, **variables)
        return "\n".join(line.rstrip() for line in printed.rstrip().splitlines())

    def _rows(self, statement: str, **variables: str) -> list[list[str]]:
        separated = ("-At", "-F", "\x1f", "-R", "\x1e")
        printed = psql(self._server, self._week, statement, *separated, **variables)
        rows = printed.removesuffix("\n").split("\x1e")
        return [row.split("\x1f") for row in rows if row]


_RELATIONS = """
select relname, obj_description(oid, 'pg_class')
  from pg_class
 where relnamespace = 'attr_audit'::regnamespace and relkind in ('r', 'v', 'p')
   and has_table_privilege(oid, 'select')
 order by relname
"""

_COLUMNS = """
select a.attname, format_type(a.atttypid, a.atttypmod) || case when a.attnotnull then '' when
       c.relkind = 'v' then '' else ', null' end, col_description(a.attrelid, a.attnum)
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
 where a.attrelid = :'name'::regclass and a.attnum > 0 and not a.attisdropped
 order by a.attnum
"""

# Not the not-null constraints, which PostgreSQL 18 lists and older ones do not.
_CONSTRAINTS = """
select conname, pg_get_constraintdef(oid)
  from pg_constraint
 where conrelid = :'name'::regclass and contype <> 'n'
 order by contype desc, conname
"""

_AWKWARD = """
select c.relname
  from pg_class c
  join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
 where c.relnamespace = 'attr_audit'::regnamespace and c.relkind in ('r', 'v', 'p')
   and has_table_privilege(c.oid, 'select')
   and (a.atttypid = any ('{interval,jsonb,bytea}'::regtype[])
        or format_type(a.atttypid, null) like '%]')
union
select p.proname || '()'
  from pg_proc p
 cross join unnest(p.proallargtypes, p.proargmodes) as given (type, mode)
 where p.pronamespace = 'attr_audit'::regnamespace and p.proretset and given.mode = 't'
   and (given.type = any ('{interval,jsonb,bytea}'::regtype[])
        or format_type(given.type, null) like '%]')
 order by 1
"""

# The function itself, not its overload for text arguments: a migration may create either first.
_OID = """
select p.oid
  from pg_proc p
 where p.proname = :'name' and p.pronamespace = 'attr_audit'::regnamespace
 order by p.pronargs > 0 and 'text'::regtype = all (p.proargtypes::oid[]), p.oid
 limit 1
"""

_FUNCTION = f"""
select pg_get_function_arguments(oid), obj_description(oid, 'pg_proc')
  from pg_proc
 where oid = ({_OID})
"""

_OVERLOADS = f"""
select pg_get_function_arguments(oid)
  from pg_proc
 where proname = :'name' and pronamespace = 'attr_audit'::regnamespace and oid <> ({_OID})
 order by 1
"""

_RESULT = f"""
select t.name, format_type(t.type, null)
  from pg_proc p
 cross join unnest(p.proargnames, p.proallargtypes, p.proargmodes) with ordinality
       as t (name, type, mode, number)
 where p.oid = ({_OID})
   and t.mode = 't'
 order by t.number
"""


def _cell(comment: str) -> str:
    return comment.replace("|", "\\|")


def _shell(value: str) -> str:
    return value if re.fullmatch(r"[\w.-]+", value) else f"'{value}'"


def main() -> None:
    """Write the pages."""
    from im_attr_audit.record.upkeep.migrate import migrate

    with tempfile.TemporaryDirectory(prefix="im-attr-audit-docs-") as directory:
        server = EmbeddedPostgres(Path(directory) / "postgres", settings=THROWAWAY)
        server.start()
        try:
            server.ensure_database("migrated")
            migrate(server.url("migrated"))
            for role in (
                "attr_audit_owner",
                "attr_audit_writer",
                "attr_audit_reader",
                "attr_audit_sealer",
            ):
                server.ensure_role(role)
            for path, tell in ((PAGE, story.week), (BI_PAGE, quarter)):
                page = path.read_text(encoding="utf-8")
                written = Page(server, tell(server, "migrated")).regenerate(page)
                path.write_text(written, encoding="utf-8")
            sources = Page(server, quarter(server, "migrated")).dbt_sources()
            DBT_SOURCES.write_text(sources, encoding="utf-8")
            for file, content in Page(server, quarter(server, "migrated")).superset().items():
                (SUPERSET / file).parent.mkdir(parents=True, exist_ok=True)
                (SUPERSET / file).write_text(content, encoding="utf-8")
        finally:
            server.destroy()


if __name__ == "__main__":
    main()
