"""Turns an Airflow Connection into a target and a client. The endpoint's logic is the client's."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from im_attr_audit.errors import AttrAuditError, Misconfigured
from im_attr_audit.names import AttrName
from im_attr_audit.tencent.redact import inert
from im_attr_audit.tencent.target import Target, target_from_connection

# Plan, publish and report speak no HTTP, and each task is a process that would pay for it.
if TYPE_CHECKING:
    from im_attr_audit.tencent.client import Pool, TencentImClient


def keep_masks_unsaid() -> None:
    """Let Airflow not log, at DEBUG, the very secrets that it is told to mask.

    ``dag.test()`` (and with it ``make sync``) writes every message between task and supervisor into
    its log, unmasked; one of them names each password and extra of a Connection that is read.
    """
    with contextlib.suppress(Exception):  # it only adds to what Airflow does itself
        from airflow.sdk.execution_time.comms import MaskSecret

        MaskSecret.model_fields["value"].repr = False


@contextlib.contextmanager
def masks_untold() -> Iterator[None]:
    """Let Airflow read Connections without telling its masker of each.

    The masker compiles all that it knows anew for every secret it is told, in the task's process
    and again in its supervisor's: a thousand Connections take minutes in each. Where Airflow has
    no such function any more, the masker is told as ever.
    """
    context: Any = None
    with contextlib.suppress(ImportError):
        context = importlib.import_module("airflow.sdk.execution_time.context")
    tell = getattr(context, "_mask_connection_secrets", None)
    if tell is None:
        yield
        return
    context._mask_connection_secrets = lambda _: None
    try:
        yield
    finally:
        context._mask_connection_secrets = tell


class TencentImHook(BaseHook):
    """Reads the attribute names of one Tencent Cloud Chat app.

    :param tencent_im_conn_id: a connection of type ``tencent_im``; see the provider's fields.
    """

    conn_name_attr: ClassVar[str] = "tencent_im_conn_id"
    default_conn_name: ClassVar[str] = "tencent_im_default"
    conn_type: ClassVar[str] = "tencent_im"
    hook_name: ClassVar[str] = "Tencent Cloud Chat app"

    def __init__(self, tencent_im_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.tencent_im_conn_id = tencent_im_conn_id

    def get_target(self, *, masked: bool = True) -> Target:
        """The connection, checked; Misconfigured names what is wrong with it and what to do.

        ``masked=False``: for who reads many. Airflow's masker is not told of it then, which is a
        second line only: what we log, record or raise is redacted by ourselves.
        """
        found = self._find_target(masked=masked)
        if isinstance(found, Misconfigured):
            # Where it was made the frames hold the password, and some renderers show locals.
            raise found.with_traceback(None)
        return found

    def _find_target(self, *, masked: bool) -> Target | Misconfigured:
        keep_masks_unsaid()
        conn_id = self.tencent_im_conn_id
        connection = why_not = None
        try:
            with contextlib.nullcontext() if masked else masks_untold():
                connection = self.get_connection(conn_id)
        except AirflowNotFoundException:
            why_not = (
                "is not defined, or Airflow could not read it: create it under Admin > Connections "
                "with type tencent_im, or check the environment variable or backend that holds it"
            )
        except Exception as error:
            # The text may quote the connection itself: only the kind of error is told.
            why_not = f"could not be read from Airflow ({type(error).__name__}): see its logs"
        if connection is None:
            return Misconfigured(f"connection {inert(conn_id)!r} {why_not}")
        if masked and connection.password:
            mask_secret(connection.password)
        if connection.conn_type != self.conn_type:
            return Misconfigured(
                f"connection {inert(conn_id)!r} is not of type {self.conn_type}: change its type"
            )
        try:
            return target_from_connection(
                conn_id,
                login=connection.login,
                password=connection.password,
                host=connection.host,
                port=connection.port,
                extra=connection.extra,
            )
        except Misconfigured as fault:
            return fault

    def get_conn(self, pool: Pool | None = None) -> TencentImClient:
        """A client of the app. Redaction is the client's own; masking is a second line only."""
        from im_attr_audit.tencent.client import TencentImClient

        return TencentImClient(self.get_target(), pool, on_signature=mask_secret)

    def get_attr_names(self) -> dict[int, AttrName]:
        """The app's names as they are now, by slot."""
        from im_attr_audit.tencent.client import Pool

        with Pool(max_connections=1) as pool:
            return self.get_conn(pool).get_attr_names().names

    def test_connection(self) -> tuple[bool, str]:
        """For Airflow's Test button: asks the vendor once and says what came of it."""
        try:
            names = self.get_attr_names()
        except AttrAuditError as error:
            return False, str(error)
        return True, f"The vendor answered: {len(names)} attribute name(s)."
