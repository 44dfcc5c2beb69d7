"""What needs more than one worker, and more than pytest: a docker engine, or Redis.

`make test-cluster` runs `scale_out.py`, `schedulers.py`, `failover.py`, `failover_in_run.py`,
`recovery.py` and `rollback.py`; what they print is in docs/compose.md and docs/operations.md.
`python -m tests.cluster.drill` is the compose stack from nothing, its parts killed and brought
back; what it prints is in docs/compose.md.
"""
