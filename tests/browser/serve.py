"""Airflow's API server with FAB and a handful of users; a process of its own.

Makes Airflow's tables, the users and the serialized DAG, then becomes `airflow api-server`: one
start of Python for all of it. Everything it needs is in its environment.
"""

from __future__ import annotations

import os
import sys

#: Login -> role. Each password is the login. Somebody may log in and nothing else.
USERS = {
    "admin": "Admin",
    "uma": "User",
    "viewer": "Viewer",
    "leaver": "Viewer",
    "somebody": "Public",
}


def main() -> None:
    from airflow.utils import db

    db.initdb()
    if "FabAuthManager" in os.environ["AIRFLOW__CORE__AUTH_MANAGER"]:
        _make_users()
    _serialize_dag()
    sys.argv = ["airflow", "api-server"]
    from airflow.__main__ import main as airflow

    airflow()  # type: ignore[no-untyped-call]


def _make_users() -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        security = builder.sm
        security.sync_roles()
        for login, role in USERS.items():
            if not security.find_user(login):
                security.add_user(
                    login, login, login, f"{login}@example.org", security.find_role(role), login
                )


def _serialize_dag() -> None:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import BundleDagBag, sync_bag_to_db

    manager = DagBundlesManager()  # type: ignore[no-untyped-call]
    manager.sync_bundles_to_db()
    for bundle in manager.get_all_dag_bundles():
        bundle.initialize()
        bag = BundleDagBag(bundle.path, bundle_path=bundle.path, bundle_name=bundle.name)
        sync_bag_to_db(bag, bundle.name, bundle_version=None)


if __name__ == "__main__":
    main()
