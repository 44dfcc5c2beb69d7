"""What can go wrong with one poll, by what to do next (right: the poll's outcome).

::

    AttrAuditError
    ├── SecretsUnavailable               of Airflow's connections and Variables: try again later
    ├── UnsuitableDatabase, LockTimeout  of the audit database, not about one app
    ├── Misconfigured   never sent: the Connection must be fixed      ``misconfigured``
    └── PollFailed      sent, or tried to
        ├── Unavailable try again later: network, 5xx, busy, limit     ``unavailable``
        ├── Rejected    the vendor said no; trying again cannot help   ``rejected``
        └── Invalid     the answer cannot be understood                ``invalid``

No message, attribute or cause of these ever carries the secret key or a UserSig: code that raises
one of them uses ``from None`` where the original error could quote a signed URL.
Other database errors are not wrapped. Only the Airflow tasks turn a class into Airflow's own
exceptions.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar


class AttrAuditError(Exception):
    """Base of every error this package raises on purpose; its text says what to do."""


class UnsuitableDatabase(AttrAuditError):
    """The audit database, or a pooler before it, cannot be used; the text says what to do."""


class LockTimeout(AttrAuditError):
    """Another session holds a lock that a statement needs; the text names it. Try again later."""


class SecretsUnavailable(AttrAuditError):
    """A secrets backend failed, so a connection or Variable is neither known nor missing."""


class Misconfigured(AttrAuditError):
    """A connection that cannot be polled as it is configured; nothing was sent.

    ``region`` and ``sdk_app_id`` are the app's where they can be read, else None.
    """

    outcome: ClassVar[str] = "misconfigured"

    def __init__(
        self, message: str, *, region: str | None = None, sdk_app_id: int | None = None
    ) -> None:
        super().__init__(message)
        self.region = region
        self.sdk_app_id = sdk_app_id


class PollFailed(AttrAuditError):
    """A read that did not give an app's names.

    ``error_code`` and ``error_info`` are the vendor's own (``error_info`` falls back to our
    reason), ``answer`` is the body as it came, clipped and without secrets, or None,
    ``vendor_date`` the answer's ``Date`` header (aware, UTC) where one came.
    """

    outcome: ClassVar[str]

    def __init__(
        self,
        reason: str,
        *,
        http_status: int | None = None,
        error_code: int | None = None,
        error_info: str | None = None,
        answer: str | None = None,
        vendor_date: datetime | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.http_status = http_status
        self.error_code = error_code
        self.error_info = error_info
        self.answer = answer
        self.vendor_date = vendor_date


class Unavailable(PollFailed):
    """The vendor could not be asked, or is too busy to say: try again later."""

    outcome = "unavailable"


class Rejected(PollFailed):
    """The vendor refused for a reason that stays until somebody fixes it."""

    outcome = "rejected"


class Invalid(PollFailed):
    """Something came that is not a valid answer; see :mod:`answer`."""

    outcome = "invalid"
