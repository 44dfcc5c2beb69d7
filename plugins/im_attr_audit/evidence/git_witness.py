"""A witness that is a branch of a git repository."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from typing import Final

from im_attr_audit.evidence.witness import BadTarget, Witness, sizes_of


class GitWitness(Witness):
    """A branch of a repository that others can fetch; each write is one commit on top of it."""

    def __init__(self, target: str, url: str, branch: str) -> None:
        super().__init__(target)
        if not url or url.startswith("-") or "::" in url:
            raise BadTarget("a git target has the form git:URL#branch")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", branch) or ".." in branch:
            # A password with a # in it ends up here.
            raise BadTarget("in git:URL#branch, what follows # is not the name of a branch")
        self._url = url
        self._ref = f"refs/heads/{branch}"

    def sizes(self) -> list[int]:
        with tempfile.TemporaryDirectory() as scratch:
            tip = self._fetch(scratch)
            listed = self._git(scratch, "ls-tree", "--name-only", tip) if tip else b""
        return sizes_of(listed.decode(errors="replace").splitlines())

    def _content(self, name: str) -> bytes | None:
        with tempfile.TemporaryDirectory() as scratch:
            tip = self._fetch(scratch)
            if not tip or not self._git(scratch, "ls-tree", tip, "--", name):
                return None
            return self._git(scratch, "cat-file", "blob", f"{tip}:{name}")

    def _create(self, name: str, content: bytes) -> bool:
        """The push is never forced, so it only adds to the branch."""
        with tempfile.TemporaryDirectory() as scratch:
            tip = self._fetch(scratch)
            if tip:
                if self._git(scratch, "ls-tree", tip, "--", name):
                    return False
                self._git(scratch, "read-tree", tip)
            blob = self._word(scratch, "hash-object", "-w", "--stdin", feed=content)
            self._git(scratch, "update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
            tree = self._word(scratch, "write-tree")
            parent = ("-p", tip) if tip else ()
            message = f"Add {name}\n".encode()
            commit = self._word(scratch, "commit-tree", tree, *parent, feed=message)
            self._git(scratch, "push", "--quiet", "--", self._url, f"{commit}:{self._ref}")
        return True

    def _fetch(self, scratch: str) -> str:
        """The branch's tip, fetched into a new repository; empty where there is no branch."""
        self._git(scratch, "init", "--quiet", "--bare", "--template=")
        if not self._git(scratch, "ls-remote", "--", self._url, self._ref).strip():
            return ""
        self._git(scratch, "fetch", "--quiet", "--depth=1", "--", self._url, self._ref)
        return self._word(scratch, "rev-parse", "--verify", "FETCH_HEAD")

    def _word(self, scratch: str, *arguments: str, feed: bytes = b"") -> str:
        return self._git(scratch, *arguments, feed=feed).decode().strip()

    def _git(self, scratch: str, *arguments: str, feed: bytes = b"") -> bytes:
        """Output of one git command; no shell reads it."""
        environment = {key: value for key, value in os.environ.items() if key not in _GIT_PLACES}
        environment |= {**_GIT_ENVIRONMENT, "GIT_DIR": scratch}
        try:
            done = subprocess.run(  # noqa: S603 - its arguments are a list
                ["git", *arguments],  # noqa: S607 - the machine's own git
                input=feed,
                capture_output=True,
                cwd=scratch,
                env=environment,
                timeout=120,
                check=False,
            )
        except FileNotFoundError:
            raise self._failed("the program git is not installed") from None
        except subprocess.TimeoutExpired:
            raise self._failed(f"git {arguments[0]} took longer than 120 s") from None
        if done.returncode:
            # What git reports can quote credentials.
            raise self._failed(f"git {arguments[0]} failed with status {done.returncode}")
        return done.stdout


#: Set where this runs inside a hook of another repository.
_GIT_PLACES: Final = frozenset(
    f"GIT_{name}"
    for name in ("WORK_TREE", "INDEX_FILE", "OBJECT_DIRECTORY", "COMMON_DIR", "NAMESPACE")
)
_GIT_ENVIRONMENT: Final = {
    **{
        f"GIT_{role}_{what}": "im-attr-audit"
        for role in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    },
    # Not ext:, by which a URL would be a command.
    "GIT_ALLOW_PROTOCOL": "file:https:ssh",
    "GIT_TERMINAL_PROMPT": "0",
}
