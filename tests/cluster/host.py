"""The host name that a worker of the cluster goes by: they all run on one machine."""

from __future__ import annotations

import os


def name() -> str:
    """For ``[core] hostname_callable``."""
    return os.environ["IM_ATTR_AUDIT_TEST_HOST"]
