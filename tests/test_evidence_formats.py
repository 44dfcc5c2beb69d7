"""Canonical bytes, Merkle trees, signed notes and checkpoints, against other implementations.

The constants are published test vectors: the tree of ``testonly`` in transparency-dev/merkle (the
reference tree of Certificate Transparency), the key and note in the documentation of Go's
golang.org/x/mod/sumdb/note, and the examples of https://c2sp.org/signed-note and
https://c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from im_attr_audit.evidence.canonical import NotCanonical, Value, canonical, run_leaf
from im_attr_audit.evidence.checkpoint import (
    BadCheckpoint,
    Checkpoint,
    open_checkpoint,
    read_text,
)
from im_attr_audit.evidence.merkle import (
    EMPTY_ROOT,
    BadPath,
    Tree,
    inclusion_proof,
    leaf_hash,
    root_from_path,
    root_of,
    verify_inclusion,
)
from im_attr_audit.evidence.note import (
    BadKey,
    BadNote,
    new_signer,
    open_note,
    read_key_file,
    read_signer,
    read_verifier,
    signatures_of,
    write_new_key,
)

# ---- canonical arrays

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")),
    lambda values: st.lists(values, max_size=4),
    max_leaves=8,
)


def test_a_leaf_has_the_bytes_that_the_contract_shows() -> None:
    root = "ab" * 32
    assert run_leaf(0, 1_700_000_000_000_000, 2, root, 1, root, 3, root, ["scheduled__é"]) == (
        f'["run-v1",0,1700000000000000,2,"{root}",1,"{root}",3,"{root}",["scheduled__é"]]'.encode()
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, max_size=6), st.lists(VALUES, max_size=6))
def test_canonical_bytes_read_back_and_differ_where_the_arrays_do(
    one: list[Value], other: list[Value]
) -> None:
    written = canonical(one)
    assert json.loads(written) == one
    # By its repr, because 1 == True in Python.
    assert (written == canonical(other)) is (repr(one) == repr(other))


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), {"a": 1}, b"x", "\ud800", ["\udfff"], [[0.5]]]
)
def test_a_value_without_one_spelling_is_refused(value: Any) -> None:
    with pytest.raises(NotCanonical):
        canonical(["poll-v1", value])


def test_only_an_array_is_canonical() -> None:
    with pytest.raises(NotCanonical):
        canonical("run-v1")


# ---- the tree

ENTRIES = [
    bytes.fromhex(entry)
    for entry in (
        *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
LEAF_1 = "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"
LEAF_4 = "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b"
NODE_2_3 = "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e"
NODE_4_5 = "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a"
NODE_6_7 = "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0"
NODE_4_7 = "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4"
HASHES = [leaf_hash(entry) for entry in ENTRIES]


def in_hex(path: list[bytes]) -> list[str]:
    return [node.hex() for node in path]


def test_roots_are_those_of_the_reference_tree() -> None:
    tree, grown = Tree(), []
    for leaf in [*HASHES, b""]:
        grown.append(tree.root().hex())
        tree.append(leaf)
    assert grown == ROOTS
    assert [root_of(HASHES[:size]).hex() for size in range(9)] == ROOTS


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 8, [LEAF_1, NODE_2_3, NODE_4_7]),
        (5, 8, [LEAF_4, NODE_6_7, ROOTS[4]]),
        (2, 3, [ROOTS[2]]),
        (1, 5, [ROOTS[1], NODE_2_3, LEAF_4]),
    ],
)
def test_inclusion_proofs_are_those_of_the_reference_tree(
    index: int, size: int, path: list[str]
) -> None:
    assert in_hex(inclusion_proof(HASHES[:size], index)) == path


MANY = [leaf_hash(str(number).encode()) for number in range(34)]


def by_definition(hashes: list[bytes]) -> bytes:
    """The recursive definition of RFC 9162, 2.1.1."""
    if len(hashes) < 2:
        return hashes[0] if hashes else EMPTY_ROOT
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    left, right = by_definition(hashes[:split]), by_definition(hashes[split:])
    return sha256(b"\1" + left + right).digest()


def test_every_leaf_of_every_size_is_proven_and_no_other_leaf_is() -> None:
    tree = Tree()
    for size, leaf in enumerate(MANY, 1):
        tree.append(leaf)
        root = by_definition(MANY[:size])
        assert (tree.size, tree.root()) == (size, root)
        for index in range(size):
            path = inclusion_proof(MANY[:size], index)
            assert verify_inclusion(MANY[index], index, size, path, root)
            others = [
                (MANY[index - 1], index, size, path),
                (MANY[index], (index + 1) % size, size, path),
                (MANY[index], index, size, [*path, root]),
                (MANY[index], index, size, path[:-1]),
            ]
            assert not any(verify_inclusion(*other, root) for other in others if size > 1)


def test_what_is_not_in_a_tree_has_no_proof() -> None:
    for index in (-1, 8):
        with pytest.raises(BadPath):
            inclusion_proof(HASHES, index)
        with pytest.raises(BadPath):
            root_from_path(HASHES[0], index, 8, [])


# ---- signed notes

GO_SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
GO_SIGNATURE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqd"
    "ngotpRZb6KE6RyyBwJnAM=\n"
)
GO_NOTE = f"{GO_TEXT}\n{GO_SIGNATURE}".encode()
C2SP_VKEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
C2SP_SIGNATURE = (
    "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXm"
    "RKuwHjG1Yu72IneyaQM=\n"
)
C2SP_NOTE = f"This is an example message.\n\n{C2SP_SIGNATURE}".encode()


def test_a_note_is_signed_byte_for_byte_as_go_signs_it() -> None:
    signer = read_signer(GO_SKEY)
    assert signer.sign(GO_TEXT).encode() == GO_NOTE
    assert (signer.secret_text(), str(signer.verifier)) == (GO_SKEY, GO_VKEY)


def test_notes_of_other_implementations_are_opened() -> None:
    assert open_note(GO_NOTE, read_verifier(GO_VKEY)) == GO_TEXT
    assert open_note(C2SP_NOTE, read_verifier(C2SP_VKEY)) == "This is an example message.\n"


def test_signatures_of_unknown_keys_are_ignored() -> None:
    both = GO_NOTE + C2SP_SIGNATURE.encode()
    assert open_note(both, read_verifier(GO_VKEY)) == GO_TEXT
    assert [name for name, _, _ in signatures_of(both)[1]] == ["PeterNeumann", "example.com/foo"]
    with pytest.raises(BadNote, match="is not of this text"):
        open_note(both, read_verifier(C2SP_VKEY))


def test_the_text_ends_at_the_last_empty_line() -> None:
    signer = new_signer("example.com/log")
    text = "one\n\ntwo\n"
    assert open_note(signer.sign(text).encode(), signer.verifier) == text


@pytest.mark.parametrize(
    "note",
    [
        b"",
        GO_NOTE[:-1],
        GO_NOTE + b"\n",
        GO_NOTE.replace(b"\n\n", b"\n"),
        GO_NOTE.replace(b"is the", b"is  the"),
        GO_NOTE.replace(b"is the", b"is\tthe"),
        GO_NOTE.replace(b"is the", b"is\xffthe"),
        GO_NOTE.replace(b"\n", b"\r\n"),
        GO_NOTE.replace("— ".encode(), b"- "),
        GO_NOTE.replace(b"PeterNeumann", b"Peter+Neumann"),
        GO_NOTE.replace(b"PeterNeumann", "Peter\u2003Neumann".encode()),
        GO_NOTE.replace(b"x08go/", b"x08gp/"),
        GO_NOTE.replace(b"AM=\n", b"AN=\n"),
        GO_NOTE.replace(b"AM=\n", b"AM\n"),
        GO_NOTE.replace(b"x08go", b"x08g o"),
        GO_NOTE + GO_SIGNATURE.replace("JnAM=", "JnAQ=").encode(),
        GO_NOTE + GO_SIGNATURE.encode() * 100,
        GO_NOTE + b"x" * 1_000_000,
    ],
)
def test_a_note_that_differs_in_any_byte_is_refused(note: bytes) -> None:
    with pytest.raises(BadNote):
        open_note(note, read_verifier(GO_VKEY))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        GO_VKEY.replace("c74f20a3", "c74f20a4"),
        GO_VKEY.replace("c74f20a3", "C74F20A3"),
        GO_VKEY.replace("PeterNeumann", "PeterNeuman"),
        GO_VKEY.replace("PeterNeumann", "Peter Neumann"),
        GO_VKEY.replace("+ARpc", "+AhpC"),
        GO_VKEY[:-4],
        GO_VKEY[:-1] + "X",
        GO_SKEY,
    ],
)
def test_a_malformed_key_is_refused_without_being_repeated(key: str) -> None:
    with pytest.raises(BadKey) as error:
        read_verifier(key)
    assert "ARpc2QcU" not in str(error.value)
    with pytest.raises(BadKey):
        read_signer(f"PRIVATE+KEY+{key}")


def test_a_text_that_would_not_open_again_is_not_signed() -> None:
    signer = read_signer(GO_SKEY)
    for text in ("", "no newline", "a\tb\n", "a\r\n"):
        with pytest.raises(BadNote):
            signer.sign(text)


# ---- key files


def test_a_new_key_is_readable_by_its_owner_alone_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    signer = write_new_key(path, "example.com/log")
    assert path.stat().st_mode & 0o777 == 0o600
    assert str(read_key_file(path).verifier) == str(signer.verifier)
    with pytest.raises(BadKey, match="never overwritten"):
        write_new_key(path, "example.com/log")
    assert str(read_key_file(path).verifier) == str(signer.verifier)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    write_new_key(path, "example.com/log")
    path.chmod(0o640)
    with pytest.raises(BadKey, match="chmod 600"):
        read_key_file(path)


def test_no_error_or_repr_shows_a_signing_key(tmp_path: Path) -> None:
    path = tmp_path / "seal.key"
    secret = write_new_key(path, "example.com/log").secret_text().rpartition("+")[2]
    assert secret not in repr(read_key_file(path))
    for content in (f"PRIVATE+KEY+x+00000000+{secret}", f"PRIVATE KEY {secret}", f"x\xff{secret}"):
        path.write_bytes(content.encode("latin-1"))
        with pytest.raises(BadKey) as error:
            read_key_file(path)
        assert secret[:8] not in str(error.value)
    path.unlink()
    with pytest.raises(BadKey, match="cannot be read"):
        read_key_file(path)
    with pytest.raises(BadKey, match="cannot be written"):
        write_new_key(tmp_path / "none" / "seal.key", "example.com/log")
    assert list(tmp_path.iterdir()) == []


# ---- checkpoints

SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"


def test_the_example_of_the_specification_is_read_and_written() -> None:
    root = bytes.fromhex("0ac5186a91863e8e1d90c808014aa89bf5da8e3ee1d9f07630f0378f68f1ab62")
    checkpoint = Checkpoint("example.com/behind-the-sofa", 20852163, root)
    assert read_text(SOFA) == checkpoint
    assert checkpoint.text() == SOFA
    assert read_text(SOFA + "an extension\n").extensions == ("an extension",)


def test_a_checkpoint_opens_under_its_own_key_and_origin_alone() -> None:
    signer = new_signer("example.com/log")
    checkpoint = Checkpoint("example.com/log", 8, bytes.fromhex(ROOTS[8]))
    assert open_checkpoint(checkpoint.sign(signer), signer.verifier) == checkpoint
    with pytest.raises(BadNote, match="is not signed by"):
        open_checkpoint(checkpoint.sign(signer), new_signer("example.com/log").verifier)
    with pytest.raises(BadCheckpoint, match="does not sign for"):
        Checkpoint("example.com/other", 8, checkpoint.root).sign(signer)
    with pytest.raises(BadCheckpoint, match="is of example"):
        open_checkpoint(signer.sign(SOFA).encode(), signer.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        SOFA[:-1],
        SOFA.replace("20852163", "020852163"),
        SOFA.replace("20852163", "+20852163"),
        SOFA.replace("20852163", "٢٠"),
        SOFA.replace("20852163", ""),
        SOFA.replace("2I=", "2J="),
        SOFA.replace("CsUY", ""),
        SOFA + "\n",
        "\n" + SOFA,
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(BadCheckpoint):
        read_text(text)


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("a\n9", 1, EMPTY_ROOT),
        Checkpoint("", 1, EMPTY_ROOT),
        Checkpoint("a", -1, EMPTY_ROOT),
        Checkpoint("a", 1, b"short"),
        Checkpoint("a", 1, EMPTY_ROOT, ("",)),
        Checkpoint("a", 1, EMPTY_ROOT, ("b\nc",)),
    ],
)
def test_a_checkpoint_whose_text_would_say_something_else_is_not_written(
    checkpoint: Checkpoint,
) -> None:
    with pytest.raises(BadCheckpoint):
        checkpoint.text()
