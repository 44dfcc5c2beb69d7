"""Where checkpoints are kept: a folder, an object store, a git repository, an HTTPS server.

A witness holds one file per checkpoint, ``000000000012.json`` for that of 12 seals, in one folder.
A file is created once; nothing here overwrites or deletes one. Keep one folder per log.

Every method raises WitnessFailed (an OSError) where the witness cannot be used now, and `write`
raises WitnessConflict where the witness holds another content.
"""

from __future__ import annotations

import errno
import os
import re
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import fsspec

from im_attr_audit.errors import AttrAuditError
from im_attr_audit.evidence.https import BadUrl, HttpFailed, Reply, check_url, request

#: No file of a witness is longer.
MOST_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = re.compile(r"([0-9]{12})\.json", re.ASCII)
#: The schemes that fsspec serves, and the package that each needs.
_OBJECT_STORES: Final = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}


class BadTarget(AttrAuditError):
    """A target that is not of a known form; the text says which there are."""


class WitnessFailed(AttrAuditError, OSError):
    """A witness that cannot be read or written now; try again later.

    The text names the target; ``strerror`` is the same without it.
    """

    def __init__(self, target: object, what: str) -> None:
        super().__init__(f"{target}: {what}")
        self.strerror = what


class WitnessConflict(WitnessFailed):
    """A witness that holds another content for a checkpoint of this size."""


class Witness(ABC):
    """One place; its `str` is the target that was configured."""

    def __init__(self, target: str) -> None:
        self._target = target

    def __str__(self) -> str:
        return self._target

    @abstractmethod
    def sizes(self) -> list[int]:
        """The sizes of which there is a file, in order."""

    def read(self, size: int) -> bytes:
        """The file of that size."""
        content = self._content(_name(size))
        if content is None:
            raise self._failed(f"there is no checkpoint of size {size}")
        if len(content) > MOST_BYTES:
            raise self._failed(f"the checkpoint of size {size} is too long to be read")
        return content

    def write(self, size: int, content: bytes) -> None:
        """Create the file. One that exists with the same content is left as it is."""
        if not self._create(_name(size), content) and self._content(_name(size)) != content:
            raise self._conflict(size)

    @abstractmethod
    def _content(self, name: str) -> bytes | None:
        """A file's content, or None where it does not exist."""

    @abstractmethod
    def _create(self, name: str, content: bytes) -> bool:
        """Create the file unless it exists, and say whether it was created."""

    def _failed(self, what: str) -> WitnessFailed:
        return WitnessFailed(self, what)

    def _conflict(self, size: int) -> WitnessConflict:
        what = f"it holds another checkpoint of size {size}; nothing was replaced"
        return WitnessConflict(self, what)


def open_witness(target: str) -> Witness:
    """The witness of a target. Raises BadTarget.

    ``file:/path``, ``s3://bucket/prefix`` (``gs``, ``az`` alike), ``git:URL#branch`` (``main``
    where no branch is named), ``https://host/path``.
    """
    scheme, _, rest = target.partition(":")
    if scheme == "file":
        path = unquote(rest.removeprefix("//"))
        if not path.startswith("/"):
            raise BadTarget("a file target needs an absolute path: file:/srv/witness")
        return FileWitness(target, Path(path))
    if scheme in _OBJECT_STORES:
        return ObjectWitness(target, scheme, rest.removeprefix("//").rstrip("/"))
    if scheme == "git":
        url, _, branch = rest.partition("#")
        return GitWitness(target, url, branch or "main")
    if scheme in ("https", "http"):
        return HttpsWitness(target)
    raise BadTarget(
        f"the target {target[:40]!r} is not of a known form: write file:/path, "
        "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, git:URL#branch or "
        "https://host/path"
    )


def _name(size: int) -> str:
    return f"{size:012d}.json"


def _sizes(names: Iterable[str]) -> list[int]:
    """Those of our files among the names; anything else in the folder is ignored."""
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match)


class FileWitness(Witness):
    """A folder: on another machine's disk, or on write-once media.

    It is not created here: one that is missing may be a disk that is not mounted.
    """

    def __init__(self, target: str, folder: Path) -> None:
        super().__init__(target)
        self._folder = folder

    def sizes(self) -> list[int]:
        try:
            return _sizes(os.listdir(self._folder))  # noqa: PTH208 - the names alone
        except OSError as error:
            raise self._failed(str(error.strerror)) from None

    def _content(self, name: str) -> bytes | None:
        try:
            with (self._folder / name).open("rb") as file:
                return file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(str(error.strerror)) from None

    def _create(self, name: str, content: bytes) -> bool:
        """The file appears whole or not at all, and is on the disk when this returns."""
        try:
            handle, temporary = tempfile.mkstemp(dir=self._folder, prefix=".new-")
            try:
                with os.fdopen(handle, "wb") as file:
                    _write_through(file, content)
                Path(temporary).chmod(0o644)
                created = self._link(Path(temporary), self._folder / name, content)
            finally:
                Path(temporary).unlink(missing_ok=True)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(str(error.strerror)) from None
        return created

    @staticmethod
    def _link(temporary: Path, path: Path, content: bytes) -> bool:
        """Unlike a rename, a link never replaces a file; not every file system has links."""
        try:
            try:
                path.hardlink_to(temporary)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
                    raise
                with path.open("xb") as file:
                    _write_through(file, content)
        except FileExistsError:
            return False
        return True


def _write_through(file: Any, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


class ObjectWitness(Witness):
    """A bucket through fsspec; ``create`` has the store itself refuse an existing object."""

    def __init__(self, target: str, scheme: str, path: str) -> None:
        super().__init__(target)
        self._path = path
        try:
            self._files: Any = fsspec.filesystem(scheme)
        except ImportError:
            package = _OBJECT_STORES[scheme]
            raise BadTarget(f"{target} needs another package: pip install {package}") from None
        except Exception as error:
            raise BadTarget(f"{target} cannot be used: {type(error).__name__}") from None

    def sizes(self) -> list[int]:
        try:
            # Another process may have written since.
            self._files.invalidate_cache()
            found = self._files.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        except Exception as error:
            # Its text can quote a signed URL.
            raise self._failed(type(error).__name__) from None
        return _sizes(path.rpartition("/")[2] for path in found)

    def _content(self, name: str) -> bytes | None:
        try:
            content: bytes = self._files.cat_file(f"{self._path}/{name}")
        except FileNotFoundError:
            return None
        except Exception as error:
            raise self._failed(type(error).__name__) from None
        return content

    def _create(self, name: str, content: bytes) -> bool:
        try:
            self._files.pipe_file(f"{self._path}/{name}", content, mode="create")
        except Exception as error:
            # Stores report an existing object in many ways; what is there decides.
            if self._content(name) is None:
                raise self._failed(type(error).__name__) from None
            return False
        return True


class HttpsWitness(Witness):
    """A server that takes ``PUT`` of new files: WebDAV, an artifact repository."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        try:
            check_url(target)
        except BadUrl as error:
            raise BadTarget(str(error)) from None
        if "?" in target:
            raise BadTarget("an https target is a folder and has no query")
        self._base = target.rstrip("/") + "/"

    def sizes(self) -> list[int]:
        """Found without a listing, which HTTP does not define: sizes have no gaps."""
        least, beyond = 0, 1
        while self._content(_name(beyond)) is not None:
            least, beyond = beyond, beyond * 2
        while beyond - least > 1:
            middle = (least + beyond) // 2
            if self._content(_name(middle)) is None:
                beyond = middle
            else:
                least = middle
        return list(range(1, least + 1))

    def _content(self, name: str) -> bytes | None:
        reply = self._ask("GET", name)
        if reply.status in (404, 410):
            return None
        if reply.status != 200:
            raise self._failed(f"{name} is not returned (HTTP {reply.status})")
        return reply.body

    def _create(self, name: str, content: bytes) -> bool:
        reply = self._ask("PUT", name, content)
        if reply.status in (409, 412):
            return False
        if not 200 <= reply.status < 300:
            raise self._failed(f"{name} is not taken (HTTP {reply.status})")
        return True

    def write(self, size: int, content: bytes) -> None:
        """Read before and after: not every server heeds ``If-None-Match`` or keeps what it took."""
        if self._content(_name(size)) is None:
            super().write(size, content)
        if self._content(_name(size)) != content:
            raise self._conflict(size)

    def _ask(self, method: str, name: str, body: bytes = b"") -> Reply:
        headers = {"Accept-Encoding": "identity"}
        if method == "PUT":
            headers |= {"If-None-Match": "*", "Content-Type": "application/json"}
        try:
            return request(method, self._base + name, body=body, headers=headers, most=MOST_BYTES)
        except HttpFailed as error:
            raise self._failed(str(error)) from None


class GitWitness(Witness):
    """A branch of a repository that others can fetch; each write is one commit on top of it."""

    def __init__(self, target: str, url: str, branch: str) -> None:
        super().__init__(target)
        if not url or url.startswith("-") or "::" in url or re.search(r"//[^/]*:[^/]*@", url):
            raise BadTarget("a git target has the form git:URL#branch, without a password")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./-]*", branch) or ".." in branch:
            raise BadTarget(f"{branch[:60]!r} is not the name of a branch")
        self._url = url
        self._ref = f"refs/heads/{branch}"

    def sizes(self) -> list[int]:
        with tempfile.TemporaryDirectory() as scratch:
            tip = self._fetch(scratch)
            listed = self._git(scratch, "ls-tree", "--name-only", tip) if tip else b""
        return _sizes(listed.decode(errors="replace").splitlines())

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
