"""dlt: a merge with the strategy scd2, from rows or from an Arrow table."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    """python dlt_scd2.py URL STATE FOLDER rows|arrow."""
    url, state, folder, form = sys.argv[1:]
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
    os.environ["RUNTIME__LOG_LEVEL"] = "ERROR"
    import dlt

    columns = ("region", "sdk_app_id", "slot", "name")
    rows = [json.loads(line) for line in Path(state).read_text().splitlines()]
    disposition: dict[str, Any] = {"disposition": "merge", "strategy": "scd2"}
    data: Any = [dict(zip(columns, row, strict=True)) for row in rows]
    if form == "arrow":
        import pyarrow
        from dlt.sources.helpers.transform import add_row_hash_to_table

        disposition["row_version_column_name"] = "row_hash"
        table = pyarrow.Table.from_pylist(data)

    pipeline = dlt.pipeline(
        pipeline_name=f"peer_{form}",
        pipelines_dir=folder,
        destination=dlt.destinations.postgres(url),
        dataset_name="peer",
    )
    began = time.perf_counter()
    if form == "arrow":
        data = add_row_hash_to_table("row_hash")(table)
    pipeline.run(data, table_name="names", write_disposition=disposition).raise_on_failed_jobs()
    sys.stdout.write(json.dumps({"step": time.perf_counter() - began}) + "\n")


main()
