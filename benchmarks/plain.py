"""What measurements under Airflow share: the other DAG, an environment without surprises."""

from __future__ import annotations

import os

from im_attr_audit.settings import DAG_ID

from launch.state import ROOT

__all__ = ["DAG_ID", "SHAPES", "SHAPE_ID", "plain_environment"]

SHAPES = ROOT / "benchmarks" / "shape"
SHAPE_ID = "im_attr_same_shape"

# What make hands to a make below it, and what steers Python: one that may not write bytecode
# compiles every module in every process.
_NOT_OURS = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHON", "VIRTUAL_ENV")


def plain_environment() -> dict[str, str]:
    """The environment without whatever steers an Airflow, this product or a make."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "_AIRFLOW", "IM_ATTR_AUDIT", *_NOT_OURS))
    }
