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
from im_attr_audit.frames import without_frames
from im_attr_audit.lookup import ask_for_connection, find_in_backends
from im_attr_audit.names import AttrName
from im_attr_audit.settings import BadSetting
from im_attr_audit.tencent.redact import inert
from im_attr_audit.tencent.target import Target, target_from_connection

# Plan, publish and report speak no HTTP, and each task is a process that would pay for it.
if TYPE_CHECKING:
    from im_attr_audit.tencent.client import Pool, TencentImClient


def hide_secrets_in_debug_log() -> None:
    """Keep Airflow from logging, at DEBUG, the secrets that it is asked to mask.

    ``dag.test()`` (and with it ``make sync``) logs every message between task and supervisor
    unmasked; one of them holds each password and extra of a Connection that is read.
    """
    with contextlib.suppress(Exception):  # it only adds to what Airflow does itself
        from airflow.sdk.execution_time.comms import MaskSecret

        MaskSecret.model_fields["value"].repr = False


@contextlib.contextmanager
def without_masking() -> Iterator[None]:
    """Read Connections without adding their secrets to Airflow's masker.

    The masker compiles its whole pattern again for every secret that is added, in the task's
    process and in its supervisor's: a thousand Connections take minutes in each. The function that
    adds them is private; where a later Airflow does not have it, secrets are added as usual.
    """
    context: Any = None
    with contextlib.suppress(ImportError):
        context = importlib.import_module("airflow.sdk.execution_time.context")
    add_secrets = getattr(context, "_mask_connection_secrets", None)
    if add_secrets is None:
        yield
        return
    context._mask_connection_secrets = lambda _: None  # noqa: SLF001 - see above
    try:
        yield
    finally:
        context._mask_connection_secrets = add_secrets  # noqa: SLF001


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

    @without_frames
    def get_target(self, *, masked: bool = True) -> Target:
        """The connection, checked; Misconfigured names what is wrong with it and what to do.

        Raises SecretsUnavailable where a secrets backend failed.

        ``masked=False``: for a caller that reads many. Their secrets are not added to Airflow's
        masker, which is a second line only: we redact what we log, record or raise.
        """
        hide_secrets_in_debug_log()
        conn_id = self.tencent_im_conn_id
        connection = why_not = None
        try:
            with contextlib.nullcontext() if masked else without_masking():
                connection = None if masked else find_in_backends(conn_id)
                connection = connection or self.get_connection(conn_id)
        except AirflowNotFoundException:
            why_not = (
                "is not defined: create it under Admin > Connections with type tencent_im, or in "
                "the secrets backend (if only the API server reads that one, see its log too)"
            )
        except Exception as error:
            # The text may quote the connection itself: only the kind of error is reported.
            why_not = f"could not be read from Airflow ({type(error).__name__}): see its logs"
        if connection is None:
            try:
                with contextlib.nullcontext() if masked else without_masking():
                    connection = ask_for_connection(conn_id)
            except BadSetting as error:
                raise Misconfigured(
                    f"connection {inert(conn_id)!r} cannot be used: {error}"
                ) from None
        if connection is None:
            raise Misconfigured(f"connection {inert(conn_id)!r} {why_not}")
        if masked and connection.password:
            mask_secret(connection.password)
        if connection.conn_type != self.conn_type:
            raise Misconfigured(
                f"connection {inert(conn_id)!r} is not of type {self.conn_type}: change its type"
            )
        return target_from_connection(
            conn_id,
            login=connection.login,
            password=connection.password,
            host=connection.host,
            port=connection.port,
            extra=connection.extra,
        )

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
