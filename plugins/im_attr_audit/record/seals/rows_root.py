"""The Merkle root of a seal's rows, which come in parts."""

from __future__ import annotations

from collections.abc import Sequence

from im_attr_audit.evidence.merkle import root_of

#: So many leaf hashes are reduced to one.
_CHUNK = 1 << 16


class Root:
    """The root of leaf hashes that come in parts, in constant memory."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []
        self._pending: list[bytes] = []

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Add leaf hashes at the end."""
        self.size += len(hashes)
        self._pending += hashes
        while len(self._pending) >= _CHUNK:
            # A whole number of leaves that is a power of two is one node of the tree.
            self._chunks.append(root_of(self._pending[:_CHUNK]))
            del self._pending[:_CHUNK]

    def hex(self) -> str:
        """The root so far."""
        if not self._chunks:
            return root_of(self._pending).hex()
        rest = [root_of(self._pending)] if self._pending else []
        return root_of([*self._chunks, *rest]).hex()
