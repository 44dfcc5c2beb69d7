"""`verify --checkpoints` over very many polls: rows a second, and the peak memory of its processes.

python -m benchmarks.many_seals [POLLS]

Ten million, where none are named, take ten minutes. `make bench` does not run it.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

from im_attr_audit.evidence.note import read_verifier
from im_attr_audit.evidence.witnesses import open_witness
from im_attr_audit.record.engine import create_audit_engine
from im_attr_audit.record.seals.verify import check_seals
from im_attr_audit.record.upkeep.roles import SEALER
from sqlalchemy.engine import make_url

from benchmarks.measure import seconds
from benchmarks.seals import APPS, first_sealed
from benchmarks.server import settle

_NAME = "bench_many_seals"
#: So many polls are in one seal.
_EACH = 100_000


def measure(polls: int) -> None:
    """Fill, seal, and verify in a process of its own. Prints what comes out."""
    with first_sealed(_NAME) as bench:
        sealing = []
        for _ in range(polls // _EACH):
            bench.add(_EACH // APPS)
            sealing.append(seconds(bench.seal))
        _say(f"{len(sealing)} seals of {_EACH:,} polls, {max(sealing):.2f} s at most each")
        settle(bench.server, _NAME)
        url = bench.server.url(_NAME, SEALER)
        arguments = [url, bench.folder, str(bench.signer.verifier)]
        command = [sys.executable, "-m", __spec__.name, "verify", *arguments]
        for _ in range(2):
            subprocess.run(command, check=True)


def verify(url: str, folder: str, vkey: str) -> None:
    """One `verify --checkpoints`, in this process and those that it starts."""
    witness = open_witness(f"file:{folder}")
    began = time.perf_counter()
    _, found = check_seals(create_audit_engine(make_url(url)), [witness], read_verifier(vkey))
    wall = time.perf_counter() - began
    assert found.findings == [], found.findings
    own = resource.getrusage(resource.RUSAGE_SELF)
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = sum(each.ru_utime + each.ru_stime for each in (own, others))
    _say(
        json.dumps(
            {
                "rows": found.rows,
                "seconds": round(wall, 1),
                "rows_per_second": round(found.rows / wall),
                "microseconds_of_processor_per_row": round(processor / found.rows * 1e6, 2),
                "peak_mb": [own.ru_maxrss // 1024, others.ru_maxrss // 1024],
                "load": Path("/proc/loadavg").read_text().split()[:3],
            }
        )
    )


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1:2] == ["verify"]:
        verify(*sys.argv[2:])
    else:
        measure(int(sys.argv[1]) if sys.argv[1:] else 10_000_000)
