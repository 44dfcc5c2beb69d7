"""The one error of this package."""


class PostgresError(Exception):
    """The embedded Postgres is unavailable; the text says why and what to do."""
