"""What the benchmarks need of the product besides its speed."""

from __future__ import annotations

import pickle

from benchmarks.world import World


def test_the_polls_of_a_benchmark_reach_another_process_as_they_are() -> None:
    polls = World(6).polls()
    assert len(polls) == 6
    sent = pickle.loads(pickle.dumps(polls))
    assert [(poll.conn_id, poll.reads[0].digest) for poll in sent] == [
        (poll.conn_id, poll.reads[0].digest) for poll in polls
    ]
