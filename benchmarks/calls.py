"""Asking the vendor: 1,000 apps of one region at a simulator that answers after 30 ms.

Beside it the same calls by a bare requests.Session in the same number of threads: signed
beforehand, nothing looked at but the status. And what a signature costs.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
from im_attr_audit.sync import THREADS
from im_attr_audit.tencent import client
from im_attr_audit.tencent.client import Pool, TencentImClient
from im_attr_audit.tencent.target import Target, target_from_connection
from im_attr_audit.tencent.usersig import user_sig
from requests.adapters import HTTPAdapter

from benchmarks.measure import Side, in_turn
from simulator.control import Simulator
from simulator.records import NewApp

APPS = 1_000
LATENCY = 0.030
REGION = "frankfurt"


def signing(rounds: int = 2_000) -> float:
    """Microseconds for one signature."""
    began = time.perf_counter()
    for now in range(rounds):
        user_sig(1_400_000_001, "k" * 64, "administrator", now=1_700_000_000 + now, ttl=86_400)
    return (time.perf_counter() - began) / rounds * 1e6


def _ours(targets: Sequence[Target]) -> None:
    with Pool(max_connections=THREADS) as pool, ThreadPoolExecutor(THREADS) as executor:
        answers = list(
            executor.map(lambda target: TencentImClient(target, pool).get_attr_names(), targets)
        )
    assert all(answer.names[0].name == "sex" for answer in answers)


def _bare(targets: Sequence[Target]) -> None:
    now = int(time.time())
    calls = [
        (
            f"{t.base_url}{t.path}",
            {
                "usersig": user_sig(t.sdk_app_id, t.secret_key, t.identifier, now=now, ttl=86_400),
                "identifier": t.identifier,
                "sdkappid": str(t.sdk_app_id),
                "random": "1",
                "contenttype": "json",
            },
        )
        for t in targets
    ]
    with requests.Session() as session, ThreadPoolExecutor(THREADS) as executor:
        session.mount("https://", HTTPAdapter(pool_maxsize=THREADS))
        session.verify = targets[0].ca_bundle
        session.trust_env = False

        def ask(call: tuple[str, dict[str, str]]) -> int:
            return session.post(call[0], params=call[1], data=b"{}", timeout=10).status_code

        assert set(executor.map(ask, calls)) == {200}


def _busiest_second(arrivals: Sequence[float]) -> int:
    """The most calls within any one second."""
    most = first = 0
    for last, at in enumerate(arrivals):
        while arrivals[first] < at - 1:
            first += 1
        most = max(most, last - first + 1)
    return most


def measure(rounds: int = 5, apps: int = APPS) -> dict[str, Any]:
    """Calls per second on both sides, handshakes, calls per app and second, signatures."""
    with tempfile.TemporaryDirectory() as folder:
        simulator = Simulator.start(Path(folder), regions=[REGION], lasting=False)
        try:
            numbers = range(1_400_000_001, 1_400_000_001 + apps)
            simulator.add_apps(NewApp(REGION, number, {0: "sex", 1: "city"}) for number in numbers)
            simulator.set_latency(LATENCY)
            targets = []
            for number in numbers:
                fields = simulator.connection_json(REGION, number)
                targets.append(
                    target_from_connection(
                        f"im_{number}",
                        **{k: fields[k] for k in ("login", "password", "host", "port", "extra")},
                    )
                )
            signed = _count_signatures()
            handshakes: Counter[str] = Counter()

            def counting(name: str, what: Callable[[Sequence[Target]], None]) -> Side:
                def run() -> None:
                    before = simulator.stats()["connections"]
                    what(targets)
                    opened = _total(simulator.stats()["connections"]) - _total(before)
                    handshakes[name] = max(handshakes[name], opened)

                return Side(name, run)

            # One round of each that does not count: certificates read, modules loaded.
            _ours(targets[:THREADS])
            _bare(targets[:THREADS])
            first = simulator.log()[-1].seq
            times = in_turn([counting("ours", _ours), counting("bare", _bare)], rounds)
            arrivals: dict[int, list[float]] = {}
            for entry in simulator.log(first):
                if entry.app_id is not None:
                    arrivals.setdefault(entry.app_id, []).append(entry.arrived_at.timestamp())
        finally:
            simulator.stop()
    rates = {name: apps / statistics.median(seconds) for name, seconds in times.items()}
    return {
        "threads": THREADS,
        "apps": apps,
        "latency": LATENCY,
        "rounds": rounds,
        "calls_per_second": rates,
        "ratio": statistics.median(
            bare / ours for ours, bare in zip(times["ours"], times["bare"], strict=True)
        ),
        "handshakes": dict(handshakes),
        "busiest_second_of_an_app": max(_busiest_second(sorted(a)) for a in arrivals.values()),
        "signatures_per_app": max(signed.values()),
        "signature_us": min(signing() for _ in range(5)),
    }


def _total(connections: Any) -> int:
    return sum(connections.values()) if isinstance(connections, dict) else int(connections)


def _count_signatures() -> Counter[int]:
    made: Counter[int] = Counter()

    def counted(sdk_app_id: int, *given: Any, **more: Any) -> str:
        made[sdk_app_id] += 1
        return user_sig(sdk_app_id, *given, **more)

    # Where the client looks it up; the bare side signs by itself, uncounted.
    setattr(client, "user_sig", counted)  # noqa: B010
    return made
