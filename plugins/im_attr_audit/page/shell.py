"""The page's static files, and the HTML frame of each view, which the view's script fills."""

from __future__ import annotations

import hashlib
import html
import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from urllib.parse import quote_plus

from im_attr_audit.page.bundle import bundle

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
    "names": "A slot is one of an app's numbered user attributes. Names are shown as last seen. "
    "Search for a name to see which apps have it, since when, and whether they had it during a "
    "campaign.",
    "timeline": "The name of each slot (a numbered user attribute) over time, and when an app had "
    "no good poll.",
    "changes": "Every change, newest first. Open one for its earliest and latest time, its review "
    "and its proof. Tencent's API does not report who changes a name.",
    "as-of": "The names at one time, or at two times side by side.",
    "attest": "Shows for each app whether anything changed in a period: for an auditor, or before "
    "a campaign.",
    "health": "Shows whether every app is polled, and whether the record is intact.",
}

#: What a view's script asks the API for first: path -> which parameters of the view's address it
#: passes on, in its own order.
_FIRST_QUESTIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "overview": {"overview": ()},
    "names": {"names": ()},
    "timeline": {
        "setup": (),
        "timeline": ("region", "group", "app", "slot", "since", "until", "after", "lanes"),
    },
    "changes": {
        "setup": (),
        "changes": ("region", "group", "app", "slot", "kind", "name", "since", "until", "run",
                    "review", "before", "limit"),
    },
    "as-of": {"as-of": ("at", "compare")},
    "attest": {"setup": ()},
    "health": {"health": ()},
}  # fmt: skip
#: As changes.js has it.
_CHANGES_ON_A_PAGE = "25"


@cache
def static_files() -> Mapping[str, tuple[bytes, str]]:
    """Every file below static, by its path, and each view's bundle. Nothing else is served."""
    files = _own_files()
    scripts = {
        name: content.decode() for name, (content, kind) in files.items() if kind == _JAVASCRIPT
    }
    bundles = {
        f"views/{view}.js": (bundle(scripts, f"{view}.js").encode(), _JAVASCRIPT) for view in VIEWS
    }
    return {**files, **bundles}


_JAVASCRIPT = "text/javascript"


def _own_files() -> Mapping[str, tuple[bytes, str]]:
    kinds = {".js": _JAVASCRIPT, ".css": "text/css", ".svg": "image/svg+xml"}  # fmt: skip
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


def questions(view: str, query: Mapping[str, str]) -> Iterator[str]:
    """The addresses that the view's script asks the API for first, as it writes them."""
    asked = {name: value for name, value in query.items() if value}
    region, _, number = asked.get("app", "").rpartition("/")
    if view == "changes" and region and "seq" in asked:
        yield _address("change", {"region": region, "sdk_app_id": number, "seq": asked["seq"]})
        return
    asked["limit"] = _CHANGES_ON_A_PAGE
    for path, names in _FIRST_QUESTIONS[view].items():
        yield _address(path, {name: asked[name] for name in names if name in asked})


def _address(path: str, parameters: Mapping[str, str]) -> str:
    # As URLSearchParams writes it: the browser takes the answer for the same address only.
    written = "&".join(
        f"{name}={quote_plus(value, safe='*').replace('~', '%7E')}"
        for name, value in parameters.items()
    )
    return f"api/{path}{'?' if written else ''}{written}"


def shell(view: str, query: Mapping[str, str]) -> str:
    """The page of a view: its frame, which the view's script fills. All addresses are relative.

    What the script will ask for is fetched with it, not after it.
    """
    preloaded = "\n".join(
        f'<link rel="preload" as="fetch" crossorigin href="{html.escape(each)}">'
        for each in questions(view, query)
    )
    return _frame(view).replace(_PRELOADED, preloaded)


_PRELOADED = "<!-- preloaded -->"


@cache
def _frame(view: str) -> str:
    base = f"static/{static_version()}"
    current = ' aria-current="page"'
    links = "".join(
        f'<li><a href="{"./" if name == FIRST_VIEW else name}"{current if name == view else ""}>'
        f"{html.escape(title)}</a></li>"
        for name, title in VIEWS.items()
    )
    title = VIEWS[view]
    purpose = f'<p class="purpose">{_PURPOSES[view]}</p>' if view in _PURPOSES else ""
    return f"""<!doctype html>
<html lang="en" data-theme="light">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Attribute names</title>
<link rel="icon" href="{base}/icon.svg" type="image/svg+xml">
<script src="{base}/theme.js"></script>
<link rel="stylesheet" href="{base}/page.css">
<script type="module" src="{base}/views/{view}.js"></script>
{_PRELOADED}
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
