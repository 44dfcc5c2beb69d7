"""Every setting of the product: its name, unit, default and bounds, parsed in one place. Pure.

A setting that is wrong raises `BadSetting`, whose sentence says what to write instead. Tasks, page
and command all read settings here, so one value means the same everywhere. The table of settings
in the operations guide is generated from `SETTINGS`.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from im_attr_audit.errors import AttrAuditError

DAG_ID: Final = "im_attr_name_audit"
REVIEW_DAG_ID: Final = "im_attr_name_review"

# Connection ids and the Variable.
AUDIT_DB: Final = "im_attr_audit_db"
AUDIT_DB_READER: Final = "im_attr_audit_db_reader"
NOTIFY: Final = "im_attr_audit_notify"
CONN_IDS: Final = "im_attr_audit_conn_ids"
DECLARED_NAMES: Final = "im_attr_audit_declared_names"


class BadSetting(AttrAuditError):
    """A setting whose value cannot be used; the text names it and says what to write."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: ``form`` is where it is set, ``default`` what counts where it is not set."""

    name: str
    form: str
    meaning: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Seconds(Setting):
    """A number of seconds in an environment variable, from ``least`` to ``most``."""

    least: float = 0
    most: float = math.inf

    def read(self, environ: Mapping[str, str] = os.environ) -> float:
        """The value; BadSetting where it is not a number within the bounds."""
        given = _text(self, environ)
        # Not all that Python reads as a number: 1_000, 1e3, nan and other scripts' digits.
        number = re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", given, re.ASCII)
        if not number or not self.least <= (seconds := float(given)) <= self.most:
            raise BadSetting(
                f"{self.name} is {given[:40]!r}: set it to a number of seconds from "
                f"{self.least:g} to {self.most:.0f}."
            )
        return seconds


_ENVIRONMENT: Final = "environment variable"

STALE_AFTER: Final = Seconds(
    "IM_ATTR_AUDIT_STALE_AFTER",
    _ENVIRONMENT,
    "Seconds without a good poll before an app is stale: an alert is sent, and the page and "
    "`healthz` show it. Use the same value for workers, API server and `im-attr-audit metrics`.",
    "3600",
    least=1,
    most=366 * 86400,
)
CONFIRM_SECONDS: Final = Seconds(
    "IM_ATTR_AUDIT_CONFIRM_SECONDS",
    _ENVIRONMENT,
    "Seconds between the first read of a difference and the read that confirms it.",
    "2",
    least=0,
    most=600,
)
RETRY_SECONDS: Final = Seconds(
    "IM_ATTR_AUDIT_RETRY_SECONDS",
    _ENVIRONMENT,
    "Seconds before Airflow's first retry of a task; the delay doubles up to eight times this.",
    "30",
    least=0,
    most=3600,
)
REVIEW_WITHIN: Final = Seconds(
    "IM_ATTR_AUDIT_REVIEW_WITHIN",
    _ENVIRONMENT,
    "Seconds that a change may wait for its review before an alert is sent, counted from the "
    "question of `im_attr_name_review` (259200: three days).",
    "259200",
    least=1,
    most=366 * 86400,
)
SCHEDULE: Final = Setting(
    "IM_ATTR_AUDIT_SCHEDULE",
    _ENVIRONMENT,
    "Cron expression of the DAG `im_attr_name_audit`: five fields, in UTC.",
    "*/15 * * * *",
)
DECLARED_NAMES_FILE: Final = Setting(
    "IM_ATTR_AUDIT_DECLARED_NAMES",
    _ENVIRONMENT,
    "The file with the declared names, if the Variable is not set; a relative path starts in the "
    "DAG's folder.",
    "declared_names.yaml",
)
RUNBOOKS_URL: Final = Setting(
    "IM_ATTR_AUDIT_RUNBOOKS_URL",
    _ENVIRONMENT,
    "Where people open `docs/runbooks.md`, such as its page in a git server: alerts and the page "
    "then link to the section that helps. Without it they name the section.",
)
DATABASE_URL: Final = Setting(
    "IM_ATTR_AUDIT_DATABASE_URL",
    _ENVIRONMENT,
    "The owner's URL of the audit database, for `im-attr-audit migrate` and `retention` only. "
    "Never set it in a task's environment.",
)
SEALER_URL: Final = Setting(
    "IM_ATTR_AUDIT_SEALER_URL",
    _ENVIRONMENT,
    "The URL of the audit database as `attr_audit_sealer`, for `im-attr-audit checkpoint` and for "
    "an auditor's `verify --checkpoints` and `prove`. Never set it in a task's environment.",
)
STATE_DIR: Final = Setting(
    "IM_ATTR_AUDIT_STATE_DIR",
    _ENVIRONMENT,
    "The folder in which `make` keeps its local state.",
    ".local",
)

#: Every setting, in the order in which the guide lists them.
SETTINGS: Final[tuple[Setting, ...]] = (
    Setting(CONN_IDS, "Airflow Variable", "JSON list of the connection ids to poll."),
    Setting(AUDIT_DB, "Airflow connection", "The audit database as `attr_audit_writer`."),
    Setting(
        AUDIT_DB_READER,
        "Airflow connection",
        "The audit database as `attr_audit_reader`, for page and command.",
        AUDIT_DB,
    ),
    Setting(
        DECLARED_NAMES,
        "Airflow Variable",
        "The names that apps are meant to have, YAML or JSON.",
    ),
    DECLARED_NAMES_FILE,
    Setting(NOTIFY, "Airflow connection", "Where alerts are sent (type `apprise`)."),
    SCHEDULE,
    STALE_AFTER,
    CONFIRM_SECONDS,
    RETRY_SECONDS,
    REVIEW_WITHIN,
    RUNBOOKS_URL,
    DATABASE_URL,
    SEALER_URL,
    STATE_DIR,
)


def stale_after(environ: Mapping[str, str] = os.environ) -> timedelta:
    """How long without a good poll makes an app stale."""
    return timedelta(seconds=STALE_AFTER.read(environ))


def review_within(environ: Mapping[str, str] = os.environ) -> timedelta:
    """How long a change may wait for its review before an alert is sent."""
    return timedelta(seconds=REVIEW_WITHIN.read(environ))


def runbooks_url(environ: Mapping[str, str] = os.environ) -> str | None:
    """Where the runbooks are, None if it is not set. BadSetting if it is not a web address."""
    given = _text(RUNBOOKS_URL, environ)
    # It is shown to every reader of an alert. A value with a login is not even quoted.
    if given and not re.fullmatch(r"https?://[\w.:\[\]-]+(/[\w./~%?=&+:,;-]*)?", given, re.ASCII):
        raise BadSetting(
            f"{RUNBOOKS_URL.name} is not a plain web address: set it to one that begins with "
            "https:// and has neither a login nor a section."
        )
    return given or None


# Airflow also takes @once and @continuous. With @once nothing is polled after the first run, and a
# DAG that does not run sends no alert; with @continuous the vendor is asked without a pause.
_CRON_NAMES: Final = frozenset(
    {"@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly"}
)


def schedule(environ: Mapping[str, str] = os.environ) -> str:
    """The DAG's cron expression. Only its form is checked here; Airflow checks its fields."""
    given = _text(SCHEDULE, environ)
    if len(given.split()) != 5 and given not in _CRON_NAMES:
        raise BadSetting(
            f"{SCHEDULE.name} is {given[:40]!r}: set it to a cron expression of five fields, such "
            f"as {SCHEDULE.default}."
        )
    return given


def parse_conn_ids(value: object) -> list[str]:
    """The connection ids in the Variable's value: JSON text, or the list a secrets backend gives.

    ``value`` is None where the Variable is not set. Raises BadSetting for anything else.
    """
    how = f'Set the Variable {CONN_IDS} to a JSON list of connection ids, such as ["im_frankfurt"].'
    if value is None:
        raise BadSetting(f"The Variable {CONN_IDS} is not set. {how}")
    listed: object = value
    if isinstance(value, str):
        try:
            listed = json.loads(value)
        except (ValueError, RecursionError):
            problem = "is not JSON"
            if _is_python_list(value):
                # Airflow before a fix in 3.3 stored a list that was posted to its API as its repr.
                problem = "is a Python list, not JSON: use double quotes"
            raise BadSetting(f"The Variable {CONN_IDS} {problem}. {how}") from None
    if not isinstance(listed, list) or not all(isinstance(i, str) and i.strip() for i in listed):
        raise BadSetting(f"The Variable {CONN_IDS} is not a list of texts. {how}")
    if not listed:
        raise BadSetting(f"The Variable {CONN_IDS} is an empty list. {how}")
    return listed


def _text(setting: Setting, environ: Mapping[str, str]) -> str:
    return environ.get(setting.name, "").strip() or setting.default or ""


def _is_python_list(text: str) -> bool:
    try:
        return isinstance(ast.literal_eval(text), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False
