"""The command `notify`: a test alert shows that a messenger works before it matters."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from im_attr_audit.commands.shared import CannotDo
from im_attr_audit.settings import NOTIFY


def add_notify(commands: Any) -> None:
    """The parser of `notify`."""
    notify = commands.add_parser(
        "notify",
        help="send a test alert",
        description=f"Send one test alert to every destination of the Airflow connection {NOTIFY}. "
        "Nothing is recorded, and no waiting alert is sent. Exit code 0: every destination took "
        "it; 2: one did not, or there is no connection.",
    )
    notify.add_argument("--test", action="store_true", required=True, help="send a test alert")
    notify.set_defaults(run=_notify)


def _notify(_: argparse.Namespace) -> int:
    from airflow.configuration import ensure_secrets_loaded

    from im_attr_audit.messages.notify import muted, open_messenger

    with muted() as keep_muted:
        messenger = open_messenger(keep_muted, ensure_secrets_loaded())
        if messenger is None:
            raise CannotDo(
                f"Airflow does not have the connection {NOTIFY}, so no alerts are sent. Create it "
                "(type apprise)."
            )
        failed = False
        for number, (service, why_not) in enumerate(messenger.send_test(), 1):
            if why_not is None:
                print(f"destination {number} ({service}): sent")
            else:
                failed = True
                print(f"destination {number} ({service}): not sent: {why_not}", file=sys.stderr)
    return 2 if failed else 0
