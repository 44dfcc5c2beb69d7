"""The Merkle tree of RFC 9162, section 2.1, over SHA-256: roots and proofs. Pure.

A hash is 32 bytes. The hash of an entry is SHA-256(0x00 ‖ entry), of a node SHA-256(0x01 ‖ left ‖
right), and the root of no entry SHA-256 of nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from im_attr_audit.errors import AttrAuditError

EMPTY_ROOT = sha256(b"").digest()


class BadPath(AttrAuditError):
    """A Merkle proof that cannot belong to a tree of this size."""


def leaf_hash(entry: bytes) -> bytes:
    """The hash of one entry of the tree."""
    return sha256(b"\0" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of an inner node."""
    return sha256(b"\1" + left + right).digest()


def _level_above(hashes: Sequence[bytes]) -> list[bytes]:
    """The nodes over these; an odd last one has no sibling and moves up unchanged."""
    # node_hash written out: once per row of a whole record.
    pairs = zip(hashes[::2], hashes[1::2], strict=False)
    above = [sha256(b"\1" + left + right).digest() for left, right in pairs]
    if len(hashes) % 2:
        above.append(hashes[-1])
    return above


def root_of(hashes: Sequence[bytes]) -> bytes:
    """The root of the tree with these leaf hashes."""
    while len(hashes) > 1:
        hashes = _level_above(hashes)
    return hashes[0] if hashes else EMPTY_ROOT


class Tree:
    """A tree that grows by leaf hashes and remembers only the peaks: one hash per bit of its size.

    ``size`` and ``root()`` are those of the leaves appended so far, at any time.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        # The roots of the complete subtrees from left to right, each larger than the next.
        self._peaks: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash at the end."""
        peaks, bits = self._peaks, self.size
        while bits & 1:
            # node_hash written out: once per row of a whole record, where the call costs a tenth.
            leaf = sha256(b"\1" + peaks.pop() + leaf).digest()
            bits >>= 1
        peaks.append(leaf)
        self.size += 1

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaf hashes at the end."""
        for leaf in leaves:
            self.append(leaf)

    def root_with(self, leaf: bytes) -> bytes:
        """The root that the tree would have with one more leaf hash."""
        larger = Tree()
        larger.size, larger._peaks = self.size, [*self._peaks]
        larger.append(leaf)
        return larger.root()

    def root(self) -> bytes:
        """The root of the leaves so far."""
        if not self._peaks:
            return EMPTY_ROOT
        *others, root = self._peaks
        for peak in reversed(others):
            root = node_hash(peak, root)
        return root


def inclusion_proof(hashes: Sequence[bytes], index: int) -> list[bytes]:
    """The path from leaf ``index`` to the root of the tree with these leaf hashes.

    Raises BadPath where there is no such leaf.
    """
    if not 0 <= index < len(hashes):
        raise BadPath(f"leaf {index} is not in a tree of {len(hashes)}")
    path = []
    while len(hashes) > 1:
        if index ^ 1 < len(hashes):
            path.append(hashes[index ^ 1])
        hashes = _level_above(hashes)
        index >>= 1
    return path


def root_from_path(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """The root that a leaf hash and its path lead to (RFC 9162, 2.1.3.2).

    Raises BadPath where a path of this length cannot belong to leaf ``index`` of ``size`` leaves.
    """
    if not 0 <= index < size:
        raise BadPath(f"leaf {index} is not in a tree of {size}")
    last, root = size - 1, leaf
    for sibling in path:
        if last == 0:
            raise BadPath("the path is too long")
        if index & 1 or index == last:
            root = node_hash(sibling, root)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            root = node_hash(root, sibling)
        index, last = index >> 1, last >> 1
    if last:
        raise BadPath("the path is too short")
    return root


def verify_inclusion(
    leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes
) -> bool:
    """Whether ``path`` shows the leaf hash at ``index`` of the tree of this size and root."""
    try:
        return root_from_path(leaf, index, size, path) == root
    except BadPath:
        return False
