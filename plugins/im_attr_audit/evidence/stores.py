"""Witnesses that are a folder or a bucket."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Any, Final

import fsspec

from im_attr_audit.evidence.witness import MOST_BYTES, BadTarget, Witness, sizes_of

#: The schemes that fsspec serves, and the package that each needs.
OBJECT_STORES: Final = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "memory": "fsspec",
}


class FileWitness(Witness):
    """A folder: on another machine's disk, or on write-once media.

    It is not created here: one that is missing may be a disk that is not mounted.
    """

    def __init__(self, target: str, folder: Path) -> None:
        super().__init__(target)
        self._folder = folder

    def sizes(self) -> list[int]:
        try:
            return sizes_of(os.listdir(self._folder))  # noqa: PTH208 - the names alone
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
            package = OBJECT_STORES[scheme]
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
        return sizes_of(path.rpartition("/")[2] for path in found)

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
