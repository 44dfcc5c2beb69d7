"""What a declaration declares of one app, slot by slot, to compare the product's answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from im_attr_audit.apps import AppKey
from im_attr_audit.declared.model import Declaration, Violation


@dataclass(frozen=True, slots=True)
class Term:
    """What is declared of one slot of one app; reason and date are those of an exception."""

    name: str | None
    reason: str | None = None
    until: date | None = None


def terms(declaration: Declaration, app_group: str, app: AppKey, at: datetime) -> dict[int, Term]:
    """What is declared of the slots that are named, for an app that is in the group then."""
    group = declaration.groups.get(app_group)
    if group is None:
        return {}
    found = {slot: Term(name) for slot, name in group.names.items()}
    # The more specific an exception is, the later.
    for each in sorted(
        group.exceptions, key=lambda e: 2 * (e.sdk_app_id is not None) + (e.region is not None)
    ):
        is_of = each.region in (None, app.region) and each.sdk_app_id in (None, app.sdk_app_id)
        if is_of and (each.ends_at is None or at < each.ends_at):
            for slot, name in each.names.items():
                found[slot] = Term(name, each.reason, each.until)
    return found


def term(
    declaration: Declaration, app_group: str, app: AppKey, slot: int, at: datetime
) -> Term | None:
    """What is declared of one slot; None: nothing is."""
    found = terms(declaration, app_group, app, at).get(slot)
    group = declaration.groups.get(app_group)
    if found is None and group is not None and not group.other_slots_allowed:
        return Term(None)
    return found


def violations(
    declaration: Declaration, app_group: str, app: AppKey, names: Mapping[int, str], at: datetime
) -> dict[int, Violation]:
    """Each slot that is not as declared; ``names`` are those that the app has then."""
    found = {}
    for slot in sorted({*terms(declaration, app_group, app, at), *names}):
        declared = term(declaration, app_group, app, slot, at)
        if declared is not None and declared.name != names.get(slot):
            found[slot] = Violation(slot, declared.name, names.get(slot))
    return found


def declared_then(
    recorded: Sequence[tuple[datetime, Declaration]], at: datetime
) -> Declaration | None:
    """The declaration in force at a time: the last one recorded by then; None: none was."""
    return next((each for since, each in reversed(recorded) if since <= at), None)
