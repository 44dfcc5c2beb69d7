"""What an outcome means and what to do about it, as the page shows it. Pure."""

from __future__ import annotations

from im_attr_audit.outcomes import GOOD, OUTCOMES
from im_attr_audit.tencent import codes


def advice(outcome: str, error_code: int | None) -> str | None:
    """Sentences; None for a good outcome."""
    if outcome in GOOD:
        return None
    if error_code:
        return codes.explain(error_code)
    row = OUTCOMES[outcome]
    return f"{row.meaning} {row.advice}"
