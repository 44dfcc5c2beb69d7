"""The page's static files, and the HTML frame of each view, which the view's script fills."""

from __future__ import annotations

import hashlib
import html
import mimetypes
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

STATIC = Path(__file__).parent / "static"

#: The page's addresses: view -> title. The first one is the page's own address.
FIRST_VIEW = "overview"
VIEWS: Mapping[str, str] = {
    "overview": "Overview",
    "names": "Names",
    "timeline": "Timeline",
    "changes": "Changes",
    "as-of": "As of",
    "attest": "Attest",
    "health": "Health",
}


#: What a view is for, in a line below its title; the overview says it itself.
_PURPOSES: Mapping[str, str] = {
    "names": "A slot is one of an app's numbered user attributes. Its name is shown as last seen. "
    "Search for a name to see who has it, since when, and whether it was in use during a campaign.",
    "timeline": "What each app called a slot (a numbered user attribute) over time, and when it "
    "had no good poll.",
    "changes": "Every change, newest first. Open one for its bounds, its review and its proof.",
    "as-of": "The names at one instant, or at two side by side.",
    "attest": "Whether anything changed in a period, app by app: for an auditor, or before a "
    "campaign.",
    "health": "Whether every app is polled, and whether the record is intact.",
}


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Every file below static, by its path: nothing else can be asked for."""
    kinds = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
             ".svg": "image/svg+xml"}  # fmt: skip
    return {
        path.relative_to(STATIC).as_posix(): (
            path.read_bytes(),
            kinds.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "text/plain",
        )
        for path in sorted(STATIC.rglob("*"))
        if path.is_file()
    }


@cache
def static_version() -> str:
    """Changes with any of the files, so that a browser may keep them."""
    digest = hashlib.sha256()
    for name, (content, _) in static_files().items():
        digest.update(f"{name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]


@cache
def _imported(script: str) -> frozenset[str]:
    """What a script imports, directly or not: fetched with it, not one after the other."""
    text = static_files()[script][0].decode()
    direct = frozenset(re.findall(r'^import .* from "\./([\w-]+\.js)";$', text, re.MULTILINE))
    return direct.union(*(_imported(each) for each in direct))


@cache
def shell(view: str) -> str:
    """The page of a view: its frame, which the view's script fills. All addresses are relative."""
    base = f"static/{static_version()}"
    current = ' aria-current="page"'
    links = "".join(
        f'<li><a href="{"./" if name == FIRST_VIEW else name}"{current if name == view else ""}>'
        f"{html.escape(title)}</a></li>"
        for name, title in VIEWS.items()
    )
    title = VIEWS[view]
    purpose = f'<p class="purpose">{_PURPOSES[view]}</p>' if view in _PURPOSES else ""
    preloaded = "\n".join(
        f'<link rel="modulepreload" href="{base}/{each}">'
        for each in sorted(_imported(f"{view}.js"))
    )
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Attribute names</title>
<link rel="icon" href="{base}/icon.svg" type="image/svg+xml">
<script src="{base}/theme.js"></script>
<link rel="stylesheet" href="{base}/page.css">
{preloaded}
<script type="module" src="{base}/{view}.js"></script>
</head>
<body>
<a class="skip" href="#main">Skip to the content</a>
<header>
<p class="brand">Attribute names</p>
<nav aria-label="Views"><ul>{links}</ul></nav>
</header>
<main id="main" tabindex="-1" aria-busy="true">
<h1>{title}</h1>{purpose}
<div id="content"><p class="waiting">Reading the record …</p></div>
<noscript><p class="notice">This page needs JavaScript. The record itself is in Postgres, in the
schema attr_audit.</p></noscript>
</main>
<footer><p id="foot"></p></footer>
<div id="said" role="status" class="unseen"></div>
</body>
</html>
"""
