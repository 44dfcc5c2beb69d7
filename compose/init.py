"""Runs before everything else, at every start: both schemas up to date, and the first login.

In one process, because each of Airflow's commands would load Airflow again; and with the password
from the environment, because a command line can be read by others.
"""

# ruff: noqa: T201, TID251 - it runs Airflow, and speaks to the container's log
from __future__ import annotations

import os
import sys

from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
from airflow.utils import db
from im_attr_audit.cli import main as im_attr_audit

LOGIN = "admin"


def first_login() -> None:
    """The administrator, if there is no such login yet; a password changed since then stays."""
    with get_application_builder() as builder:
        security = builder.sm
        if security.find_user(LOGIN):
            return
        role = security.find_role("Admin")
        password = os.environ["AIRFLOW_ADMIN_PASSWORD"]
        if not security.add_user(LOGIN, "Admin", "", "admin@localhost", role, password):
            sys.exit("The first login could not be made; see above.")
        print(f"Made the login {LOGIN}; its password is AIRFLOW_ADMIN_PASSWORD in .env.")


def main() -> int:
    """The exit status: 0 where all the others may start."""
    db.upgradedb()
    if code := im_attr_audit(["migrate"]):
        return code
    first_login()
    return 0


if __name__ == "__main__":
    sys.exit(main())
