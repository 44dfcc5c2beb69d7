"""A target is printed, stored where the record's readers see it, and shown: it holds no secret."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from im_attr_audit.evidence.witness import BadTarget

_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#\\]*)")
#: ``user:password@host:path``, git's short form of an ssh URL.
_SHORT_FORM: Final = re.compile(r"[^/]*:[^/]*@")
#: Where a user name cannot be a token: ssh has keys, and Azure writes ``container@account``.
_WITH_USERS: Final = frozenset(("ssh", "git+ssh", "ssh+git", "az", "abfs", "abfss"))


def refuse_secrets(target: str) -> None:
    """Raises BadTarget where a part of the target can be a secret; the text quotes none of it."""
    scheme, _, rest = target.partition(":")
    if scheme == "file":
        return
    if scheme == "git":
        if _is_unsafe_for_git(rest.partition("#")[0]):
            raise BadTarget(
                "a git target must not contain a password, a token or a query, nor a user name "
                "unless it is an ssh URL, because it is stored and shown. Configure a credential "
                "helper of git for the user who runs this, or use ssh://git@host/path with a key"
            )
    elif "?" in rest or _has_user(f"{scheme}://{rest.lstrip('/')}"):
        raise BadTarget(
            "a target must not contain a user name, a password or a query, because it is stored "
            "and shown. Object stores take credentials from the environment, their configuration "
            "files or the machine's role; a signed URL is not accepted"
        )


def shown_target(target: str) -> str:
    """The target as readers may see it. An earlier version accepted and stored some secrets."""
    try:
        refuse_secrets(target)
    except BadTarget:
        return f"{target.partition(':')[0]}:… (not shown: it can contain a secret)"
    return target


def _is_unsafe_for_git(url: str) -> bool:
    if _URL.match(url) is None:
        return _SHORT_FORM.match(url) is not None
    if url.lower().startswith("file:"):
        return False
    try:
        _ = urlsplit(url).port
    except ValueError:  # a password with a slash in it: its beginning is taken for a port
        return True
    return "?" in url or _has_user(url)


def _has_user(url: str) -> bool:
    """A password anywhere; a user name too where it can be a token."""
    found = _URL.match(url)
    if found is None:
        return False
    user, at, _ = found[2].replace("%40", "@").rpartition("@")
    return bool(at) and (":" in user or found[1].lower() not in _WITH_USERS)
