"""Airflow's connections and Variables, with "not defined" kept apart from "could not be looked up".

Airflow asks its secrets backends one after another and treats a backend that fails as one that does
not have the secret; it logs the failure at DEBUG (airflow.sdk.execution_time.context, 3.3.2). After
Airflow has found nothing, the functions here ask the same backends again and notice what fails.

One case stays hidden: a backend that Airflow's API server alone reads. The server answers "not
found" for it, whatever the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import BaseHook

from im_attr_audit.errors import SecretsUnavailable
from im_attr_audit.frames import without_frames
from im_attr_audit.settings import AUDIT_DB, AUDIT_DB_READER, BadSetting

Backends = Sequence[Any]


@without_frames
def find_connection(conn_id: str, backends: Backends | None = None) -> Any | None:
    """The connection, or None where every backend says that it is not defined.

    ``backends``: those to ask, where they are not the process's own. Raises SecretsUnavailable
    where none has it and one of them failed, and BadSetting where its value cannot be read.
    """
    if backends is None:
        try:
            return BaseHook.get_connection(conn_id)
        except Exception:  # whatever it was: the backends are asked one by one
            backends = None
    return ask_for_connection(conn_id, backends)


@without_frames
def find_in_backends(conn_id: str) -> Any | None:
    """The connection, asked of the backends themselves: for a caller that reads many.

    Airflow's own way sends each connection's extra to the task's supervisor, which takes it a
    millisecond and more. None where no backend has it or one of them failed: ask Airflow then.
    """
    try:
        for backend in _own_backends():
            if connection := backend.get_connection(conn_id=conn_id):
                return connection
    except Exception:  # whatever it was: Airflow decides what it means
        return None
    return None


@without_frames
def find_reading_connection(backends: Backends | None = None) -> Any | None:
    """The audit database's connection for reading: the reader's, or the writer's without one.

    Raises as `find_connection`: a reader's connection that could not be looked up is not missing.
    """
    return find_connection(AUDIT_DB_READER, backends) or find_connection(AUDIT_DB, backends)


@without_frames
def ask_for_connection(conn_id: str, backends: Backends | None = None) -> Any | None:
    """As `find_connection`, for a caller to whom Airflow has said that it does not exist."""
    return _ask(
        f"the connection {conn_id}", lambda backend: _connection(backend, conn_id), backends
    )


@without_frames
def ask_for_variable(key: str) -> Any | None:
    """A Variable's value; None where it is not defined. Raises SecretsUnavailable as above."""
    return _ask(f"the Variable {key}", lambda backend: _variable(backend, key), None)


def _ask(what: str, ask: Callable[[Any], Any], backends: Backends | None) -> Any | None:
    failed: list[str] = []
    try:
        asked = _own_backends() if backends is None else backends
    except Exception as error:
        asked, failed = (), [f"it could not be loaded: {type(error).__name__}"]
    for backend in asked:
        try:
            found = ask(backend)
        except BadSetting:
            raise
        except Exception as error:
            # Its text may quote the secret or an address with a password.
            why = error.args[0] if isinstance(error, _ApiError) else type(error).__name__
            failed.append(f"{type(backend).__name__}: {why}")
        else:
            if found is not None:
                return found
    if failed:
        raise SecretsUnavailable(
            f"the secrets backend failed ({'; '.join(failed)}), so {what} could not be looked up"
        )
    return None


class _ApiError(Exception):
    """Airflow's API server could not answer; the text is its error's code."""


def _own_backends() -> Backends:
    from airflow.sdk.execution_time.supervisor import ensure_secrets_backend_loaded

    return ensure_secrets_backend_loaded()


def _connection(backend: Any, conn_id: str) -> Any | None:
    from airflow.sdk.execution_time.comms import GetConnection

    if _is_api(backend):
        # The backend itself answers None for any error.
        _ask_api(GetConnection(conn_id=conn_id))
    elif type(backend).get_conn_value.__qualname__ != "BaseSecretsBackend.get_conn_value":
        if not backend.get_conn_value(conn_id=conn_id):
            return None
        try:
            return backend.get_connection(conn_id=conn_id)
        except Exception as error:
            raise BadSetting(
                f"the connection {conn_id} is defined, but its value is neither a connection's "
                f"JSON nor its URI ({type(error).__name__})"
            ) from None
    return backend.get_connection(conn_id=conn_id)


def _variable(backend: Any, key: str) -> Any | None:
    from airflow.sdk.execution_time.comms import GetVariable

    if _is_api(backend):
        _ask_api(GetVariable(key=key))
    return backend.get_variable(key=key)


def _is_api(backend: Any) -> bool:
    from airflow.sdk.execution_time.secrets.execution_api import ExecutionAPISecretsBackend

    return isinstance(backend, ExecutionAPISecretsBackend)


def _ask_api(message: Any) -> None:
    """Raise _ApiError where Airflow's API server gives an answer other than found or not found."""
    from airflow.sdk.exceptions import ErrorType
    from airflow.sdk.execution_time.comms import ErrorResponse
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    answer = SUPERVISOR_COMMS.send(message)
    not_found = (ErrorType.CONNECTION_NOT_FOUND, ErrorType.VARIABLE_NOT_FOUND)
    if isinstance(answer, ErrorResponse) and answer.error not in not_found:
        raise _ApiError(answer.error.value)
