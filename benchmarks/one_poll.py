"""One poll in a process of its own, as ours or as the floor: what the peers are held against.

python -m benchmarks.one_poll ours|floor URL STATE, where STATE is a pickled list of polls.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
from pathlib import Path


def main() -> None:
    """Prints the seconds of the step, once everything is imported and read."""
    side, url, state, run = sys.argv[1:]
    polls = pickle.loads(Path(state).read_bytes())  # our own file of a moment ago
    if side == "ours":
        from im_attr_audit.record.engine import create_audit_engine
        from sqlalchemy.engine import make_url

        from benchmarks.record import ours

        engine = create_audit_engine(make_url(url))
        began = time.perf_counter()
        ours(engine, polls, run)
    else:
        import psycopg2

        from benchmarks.floor import record

        began = time.perf_counter()
        connection = psycopg2.connect(url)
        record(connection, polls, run)
    sys.stdout.write(json.dumps({"step": time.perf_counter() - began}) + "\n")


main()
