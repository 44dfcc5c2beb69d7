"""What every witness has in common: one file per checkpoint, created once, never replaced."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Final

from im_attr_audit.errors import AttrAuditError

#: No file of a witness is longer.
MOST_BYTES: Final = 64 * 1024 * 1024
_NAME: Final = re.compile(r"([0-9]{12})\.json", re.ASCII)


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
        content = self._content(file_name(size))
        if content is None:
            raise self._failed(f"there is no checkpoint of size {size}")
        if len(content) > MOST_BYTES:
            raise self._failed(f"the checkpoint of size {size} is too long to be read")
        return content

    def write(self, size: int, content: bytes) -> None:
        """Create the file. One that exists with the same content is left as it is."""
        if not self._create(file_name(size), content) and self._content(file_name(size)) != content:
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


def file_name(size: int) -> str:
    """The name of the file of the checkpoint of this size."""
    return f"{size:012d}.json"


def sizes_of(names: Iterable[str]) -> list[int]:
    """Those of our files among the names; anything else in the folder is ignored."""
    found = (_NAME.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in found if match)
