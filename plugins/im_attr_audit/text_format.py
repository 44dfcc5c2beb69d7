"""Numbers and times in English: for messages, findings and what commands print."""

from __future__ import annotations

from datetime import datetime


def counted(number: int, what: str) -> str:
    """A number with its noun: 1 app, 2 apps."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def time_text(at: datetime | None) -> str:
    """A time (UTC) to the second."""
    return f"{at:%Y-%m-%d %H:%M:%S}Z" if at else "?"
