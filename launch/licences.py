"""`python -m launch.licences`: the licence of everything installed, from its own metadata.

First what the product itself needs, with all its extras, then what only `make` needs beside it.
Ends with exit code 1 where a package does not say its licence.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PRODUCT = "im-attr-audit"
UNKNOWN = "(does not say)"

# A licence's file in a field that is meant for its name: what its first lines say it is.
_BY_TEXT = {
    "Apache License": "Apache-2.0",
    "MIT License": "MIT",
    "Permission is hereby granted, free of charge": "MIT",
    "Redistribution and use in source and binary forms": "BSD",
}


def main() -> int:
    """Print both lists; the exit code."""
    installed = {str(canonicalize_name(d.metadata["Name"])): d for d in distributions()}
    if PRODUCT not in installed:
        print(f"{PRODUCT} is not installed here: run this by .venv/bin/python.", file=sys.stderr)
        return 2
    product = needed_by(PRODUCT, installed)
    others = installed.keys() - product
    mute = []
    for title, names in (
        (f"{PRODUCT} with all its extras ({len(product)} packages)", product),
        (f"beside it, for make, tests and tools ({len(others)} packages)", others),
    ):
        print(f"{title}\n")
        for name in sorted(names):
            licence = licence_of(installed[name])
            mute += [name] if licence == UNKNOWN else []
            print(f"  {name:<44} {installed[name].version:<16} {licence}")
        print()
    if mute:
        print(f"No licence is told by: {', '.join(sorted(mute))}", file=sys.stderr)
    return 1 if mute else 0


def needed_by(root: str, installed: Mapping[str, Distribution]) -> set[str]:
    """The distribution and everything it needs here, directly or not."""
    extras = set(installed[root].metadata.get_all("Provides-Extra") or ())
    seen: set[tuple[str, str]] = set()
    waiting = [(root, extra) for extra in ("", *extras)]
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in seen or name not in installed:
            continue
        seen.add((name, extra))
        for line in installed[name].requires or ():
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                key = str(canonicalize_name(wanted.name))
                waiting += [(key, more) for more in ("", *wanted.extras)]
    return {name for name, _ in seen}


def licence_of(distribution: Distribution) -> str:
    """In the order of how exact they are: the SPDX expression, classifiers, the free text."""
    metadata = distribution.metadata
    for expression in metadata.get_all("License-Expression") or ():
        return str(expression)
    named = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or ()
        if classifier.startswith("License ::") and classifier != "License :: OSI Approved"
    ]
    if named:
        return ", ".join(sorted(set(named)))
    return _of_text([*(metadata.get_all("License") or ()), *_files(distribution)])


def _of_text(texts: Iterable[str]) -> str:
    for text in texts:
        for sign, licence in _BY_TEXT.items():
            if sign in text:
                return licence
        first = text.strip().splitlines()[0].strip() if text.strip() else ""
        if first and len(first) <= 60 and first.upper() != "UNKNOWN":
            return first
    return UNKNOWN


def _files(distribution: Distribution) -> Iterable[str]:
    for path in distribution.files or ():
        if ".dist-info/" in str(path) and re.search(r"licen[cs]e|copying", path.name, re.I):
            yield path.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
