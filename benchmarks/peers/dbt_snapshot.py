"""dbt: COPY of the state into a source table, then `dbt snapshot` with the check strategy."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

_PROJECT = """
name: peer
version: 1.0.0
profile: peer
snapshot-paths: [snapshots]
flags: {send_anonymous_usage_stats: false}
"""
_PROFILE = """
peer:
  target: peer
  outputs:
    peer: {{type: postgres, host: {host}, port: {port}, user: {user}, password: "{password}",
           dbname: {name}, schema: peer, threads: 1}}
"""
_SNAPSHOT = """
{% snapshot names %}
{{ config(target_schema="peer", strategy="check", check_cols=["name"], hard_deletes="invalidate",
          unique_key=["region", "sdk_app_id", "slot"]) }}
select region, sdk_app_id, slot, name from peer.state
{% endsnapshot %}
"""


def main() -> None:
    """python dbt_snapshot.py URL STATE FOLDER."""
    url, state, given = sys.argv[1:4]
    folder = Path(given)
    parts = urlsplit(url)
    (folder / "snapshots").mkdir(parents=True, exist_ok=True)
    (folder / "dbt_project.yml").write_text(_PROJECT)
    (folder / "snapshots" / "names.sql").write_text(_SNAPSHOT)
    (folder / "profiles.yml").write_text(
        _PROFILE.format(
            host=parts.hostname,
            port=parts.port,
            user=parts.username,
            password=parts.password,
            name=parts.path[1:],
        )
    )
    os.environ["DO_NOT_TRACK"] = "1"
    import psycopg2
    from dbt.cli.main import dbtRunner

    lines = [json.loads(line) for line in Path(state).read_text().splitlines()]
    began = time.perf_counter()
    copied = io.StringIO("".join("\t".join(map(str, line)) + "\n" for line in lines))
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "create schema if not exists peer; create table if not exists peer.state "
            "(region text, sdk_app_id bigint, slot smallint, name text); truncate peer.state"
        )
        cursor.copy_expert("copy peer.state from stdin", copied)
        cursor.execute("analyze peer.state")
    connection.close()
    done = dbtRunner().invoke(
        ["--quiet", "snapshot", "--project-dir", given, "--profiles-dir", given]
    )
    if not done.success:
        raise SystemExit(f"dbt failed: {done.exception or done.result}")
    sys.stdout.write(json.dumps({"step": time.perf_counter() - began}) + "\n")


main()
