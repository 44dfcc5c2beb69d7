"""Proofs, checked by the product and by the program that docs/evidence.md prints."""

from __future__ import annotations

import copy
import json
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import playwright
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from im_attr_audit.evidence.canonical import CHANGE, POLL, TARGET, canonical, run_leaf
from im_attr_audit.evidence.checkpoint import Checkpoint
from im_attr_audit.evidence.merkle import leaf_hash, root_of
from im_attr_audit.evidence.note import BadKey, Signer, new_signer, read_verifier
from im_attr_audit.evidence.proof import (
    CHAIN_COLUMNS,
    COLUMNS,
    BadProof,
    chain_hash,
    check_proof,
    make_proof,
    read_proof,
)
from im_attr_audit.record.checks.canonical import HASHED

PAGE = Path(__file__).resolve().parents[1] / "docs" / "evidence.md"
PROGRAM = re.findall(r"^<!-- checker -->\n```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)[0]

Document = dict[str, Any]
NOW = 1_790_000_000_000_000


def row(type_: str, **values: Any) -> list[Any]:
    return [type_, *(values.get(column) for column in COLUMNS[type_])]


def chain(region: str, *names: tuple[int, str | None, str | None]) -> list[list[Any]]:
    """Changes of one app, each as the values of `CHAIN_COLUMNS`: slot, old and new name."""
    changes: list[list[Any]] = []
    for seq, (slot, old, new) in enumerate(names, 1):
        values = {
            "change_id": 100 + seq,
            "region": region,
            "sdk_app_id": 1400000001,
            "seq": seq,
            "slot": slot,
            "old_name": old,
            "new_name": new,
            "is_baseline": seq < 3,
            "seen_at_us": NOW,
            "poll_id": 7,
            "dag_run_id": "scheduled__1",
            "recorded_at_us": NOW,
            "prev_hash": chain_hash(changes[-1]) if changes else None,
        }
        changes.append([values.get(column) for column in CHAIN_COLUMNS])
    return changes


CHINA = chain("china", (0, None, "sex"), (1, None, "城市 \U0001f30d\n"), (0, "sex", None))
TOKYO = chain("tokyo", (0, None, "sex"))
CHANGES = [[CHANGE, *change, chain_hash(change)] for change in CHINA + TOKYO]
HEAD: dict[str, Any] = {"head_seq": 3, "head_hash": chain_hash(CHINA[-1])}


def poll(number: int, region: str | None = "china", **more: Any) -> list[Any]:
    values = {"poll_id": number, "conn_id": "c", "region": region, "sdk_app_id": 1400000001}
    times = {"requested_at_us": NOW + number, "recorded_at_us": NOW + number + 5}
    return row(POLL, **{**values, **times, "dag_run_id": "r", "outcome": "ok", "reads": 1, **more})


POLLS = [
    poll(1, "tokyo", head_seq=1, head_hash=chain_hash(TOKYO[0])),
    poll(2, **HEAD),
    poll(3, None, sdk_app_id=None, outcome="misconfigured", error_info='a "reason"\t\u007f'),
    poll(4, outcome="rejected", error_code=60020, **HEAD),
    poll(5, **HEAD),
]
TARGETS = [row(TARGET, planned_id=n, dag_run_id="r", region="china") for n in range(2)]
SIGNER = new_signer("example.com/log")
SEALS = 6


def in_seal(seal: int, rows: list[list[Any]]) -> list[list[Any]]:
    """The rows of a seal; they differ from seal to seal by their first id."""
    return [[item[0], item[1] + 10 * seal, *item[2:]] for item in rows]


def hashes(rows: list[list[Any]]) -> list[bytes]:
    return [leaf_hash(canonical(item)) for item in rows]


def leaf(seal: int) -> list[Any]:
    counted: list[Any] = []
    # Changes are left as they are: their own hash covers their id.
    for rows in (in_seal(seal, POLLS), CHANGES, in_seal(seal, TARGETS)):
        counted += [len(rows), root_of(hashes(rows)).hex()]
    array: list[Any] = json.loads(run_leaf(*(seal, NOW + seal, *counted, ["r"])))
    return array


LEAVES = [leaf(seal) for seal in range(SEALS)]


def note(signer: Signer = SIGNER, size: int = SEALS, origin: str | None = None) -> bytes:
    root = root_of(hashes(LEAVES)[:size])
    return signer.sign(Checkpoint(origin or signer.name, size, root).text()).encode()


def prove(rows: list[list[Any]], index: int, history: list[list[Any]], seal: int = 2) -> Document:
    if rows is not CHANGES:
        rows = in_seal(seal, rows)
    proof = make_proof(
        row=rows[index],
        row_hashes=hashes(rows),
        row_index=index,
        leaf=LEAVES[seal],
        leaf_hashes=hashes(LEAVES),
        note=note(),
        history=history,
    )
    document: Document = json.loads(proof.to_json())
    return document


POLL_PROOF = prove(POLLS, 1, CHINA)
CHANGE_PROOF = prove(CHANGES, 2, [])
TRUE = {
    "poll": POLL_PROOF,
    "poll of the last place": prove(POLLS, 4, CHINA),
    "poll of another app": prove(POLLS, 0, TOKYO),
    "poll without an app": prove(POLLS, 2, []),
    "poll in the first seal": prove(POLLS, 3, CHINA, seal=0),
    "poll in the last seal": prove(POLLS, 3, CHINA, seal=SEALS - 1),
    "change": CHANGE_PROOF,
    "planned target": prove(TARGETS, 0, []),
}


@pytest.fixture(scope="module")
def accepts(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bool]:
    """Whether the docs' program accepts a document, once the product agrees with it."""
    folder = tmp_path_factory.mktemp("checker")
    program, file = folder / "check_proof.py", folder / "proof.json"
    program.write_text(PROGRAM, encoding="utf-8")

    def accepts(document: Document, vkey: str = str(SIGNER.verifier)) -> bool:
        file.write_text(json.dumps(document), encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [str(program), str(file), vkey])
            try:
                runpy.run_path(str(program), run_name="__main__")
                by_program = True
            except (SystemExit, Exception):
                by_program = False
        try:
            check_proof(read_proof(json.dumps(document)), read_verifier(vkey))
            by_product = True
        except (BadProof, BadKey):
            by_product = False
        assert by_product is by_program
        return by_program

    return accepts


@pytest.mark.parametrize("which", TRUE)
def test_a_true_proof_is_accepted(which: str, accepts: Callable[..., bool]) -> None:
    assert accepts(TRUE[which])


def test_the_printed_program_runs_by_itself_and_shows_the_row_and_the_names(tmp_path: Path) -> None:
    (tmp_path / "check_proof.py").write_text(PROGRAM, encoding="utf-8")
    (tmp_path / "proof.json").write_text(json.dumps(POLL_PROOF), encoding="utf-8")
    command = [sys.executable, "-I", "check_proof.py", "proof.json", str(SIGNER.verifier)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines() == [
        f"PROVEN by example.com/log, seal 2 of 6, closed {NOW + 2} us after 1970 UTC: "
        + " ".join(map(str, POLL_PROOF["row"])),
        r"names on record: {1: '城市 🌍\n'}",
    ]
    (tmp_path / "proof.json").write_text(json.dumps({**POLL_PROOF, "row_index": 0}), "utf-8")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "NOT PROVEN: row\n")


def test_a_checked_proof_states_what_it_shows() -> None:
    claim = check_proof(read_proof(json.dumps(POLL_PROOF)), SIGNER.verifier)
    assert (claim.type, claim.row["poll_id"], claim.row["outcome"]) == (POLL, 22, "ok")
    assert (claim.seal, claim.closed_us, claim.origin, claim.size) == (2, NOW + 2, SIGNER.name, 6)
    assert (claim.names, claim.found_names) == ({1: "城市 \U0001f30d\n"}, True)
    claim = check_proof(read_proof(json.dumps(CHANGE_PROOF)), SIGNER.verifier)
    assert (claim.type, claim.row["seq"], claim.names) == (CHANGE, 3, None)


@pytest.mark.parametrize("number", [2, 3])
def test_a_poll_that_failed_or_has_no_head_found_no_names(number: int) -> None:
    document = prove(POLLS, number, CHINA if number == 3 else [])
    claim = check_proof(read_proof(json.dumps(document)), SIGNER.verifier)
    assert not claim.found_names
    assert (claim.names is None) is (number == 2)


def test_a_poll_that_found_other_names_does_not_show_those_on_record_as_found() -> None:
    rows = [poll(1, names_read=2, **HEAD)]
    array = json.loads(run_leaf(0, NOW, 1, root_of(hashes(rows)).hex(), 0, "", 0, "", []))
    checkpoint = Checkpoint(SIGNER.name, 1, root_of(hashes([array])))
    proof = make_proof(
        row=rows[0],
        row_hashes=hashes(rows),
        row_index=0,
        leaf=array,
        leaf_hashes=hashes([array]),
        note=checkpoint.sign(SIGNER),
        history=CHINA,
    )
    claim = check_proof(proof, SIGNER.verifier)
    assert (claim.names, claim.found_names) == ({1: "城市 \U0001f30d\n"}, False)


def test_a_proof_reads_back_as_it_was_written() -> None:
    text = json.dumps({**POLL_PROOF, "timestamp": "AAEC"})
    assert json.loads(read_proof(text).to_json()) == json.loads(text)
    assert read_proof(text).timestamp == b"\0\1\2"


def edit(*path: Any) -> Callable[[Document], None]:
    """Sets the value at this path to the last argument."""

    def change(document: Any) -> None:
        *keys, last, value = path
        for key in keys:
            document = document[key]
        document[last] = value(document[last]) if callable(value) else value

    return change


OTHER = new_signer("example.com/log")
AT = {column: at for at, column in enumerate(COLUMNS[POLL], 1)}
CHANGED = {column: at for at, column in enumerate(COLUMNS[CHANGE], 1)}

FORGERIES: dict[str, tuple[Document, Callable[[Document], None]]] = {
    "another outcome": (TRUE["poll in the first seal"], edit("row", AT["outcome"], "ok")),
    "another time": (POLL_PROOF, edit("row", AT["requested_at_us"], lambda us: us - 1)),
    "another region": (POLL_PROOF, edit("row", AT["region"], "tokyo")),
    "another app": (POLL_PROOF, edit("row", AT["sdk_app_id"], 1400000002)),
    "another run": (POLL_PROOF, edit("row", AT["dag_run_id"], "scheduled__2")),
    "a poll of another seal": (POLL_PROOF, edit("row", in_seal(3, POLLS)[1])),
    "another place in the seal": (POLL_PROOF, edit("row_index", 2)),
    "a place outside the seal": (POLL_PROOF, edit("row_index", 5)),
    "a place that is no number": (POLL_PROOF, edit("row_index", True)),
    "a place before the first": (POLL_PROOF, edit("row_index", -4)),
    "a hash of the row's path": (POLL_PROOF, edit("row_path", 0, "00" * 32)),
    "a longer row's path": (POLL_PROOF, edit("row_path", lambda path: [*path, "00" * 32])),
    "a shorter row's path": (POLL_PROOF, edit("row_path", lambda path: path[:-1])),
    "another seal time": (POLL_PROOF, edit("leaf", 2, NOW)),
    "another seal number": (POLL_PROOF, edit("leaf", 1, 3)),
    "a seal with fewer polls": (POLL_PROOF, edit("leaf", 3, 4)),
    "another root in the seal": (POLL_PROOF, edit("leaf", 4, root_of(hashes(POLLS)).hex())),
    "the leaf of another seal": (POLL_PROOF, edit("leaf", LEAVES[3])),
    "a leaf that is a row": (POLL_PROOF, edit("leaf", 0, "poll-v1")),
    "a hash of the leaf's path": (POLL_PROOF, edit("leaf_path", 0, "00" * 32)),
    "a shorter leaf's path": (POLL_PROOF, edit("leaf_path", [])),
    "a checkpoint of fewer seals": (POLL_PROOF, edit("note", note(size=4).decode())),
    "another number of seals": (POLL_PROOF, edit("note", lambda n: n.replace("\n6\n", "\n7\n"))),
    "a checkpoint of another key": (POLL_PROOF, edit("note", note(OTHER).decode())),
    "a checkpoint of another log": (
        POLL_PROOF,
        edit("note", note(origin="example.com/other").decode()),
    ),
    "a signature of another name": (
        POLL_PROOF,
        edit("note", lambda text: text.replace("— example.com/log", "— example.com/lag")),
    ),
    "no signature": (POLL_PROOF, edit("note", lambda text: text.partition("\n\n")[0] + "\n")),
    "a name in the history": (POLL_PROOF, edit("history", 1, 6, "age")),
    "a shorter history": (POLL_PROOF, edit("history", lambda changes: changes[:-1])),
    "a history without its beginning": (POLL_PROOF, edit("history", lambda changes: changes[1:])),
    "no history": (POLL_PROOF, edit("history", [])),
    "a history in another order": (POLL_PROOF, edit("history", lambda c: [c[1], c[0], c[2]])),
    "a longer history": (POLL_PROOF, edit("history", lambda changes: [*changes, changes[-1]])),
    "the history of another app": (POLL_PROOF, edit("history", TOKYO)),
    "a history for a poll without an app": (
        TRUE["poll without an app"],
        edit("history", chain(None, (0, None, "sex"))),  # type: ignore[arg-type]
    ),
    "a history for a change": (
        CHANGE_PROOF,
        edit("history", [[1, 1400000001, 3, 1, 0, None, "sex", *[None] * 13]]),
    ),
    "a change that is called a poll": (CHANGE_PROOF, edit("row", 0, POLL)),
    "an unknown type": (CHANGE_PROOF, edit("row", 0, "review-v1")),
    "another name": (CHANGE_PROOF, edit("row", CHANGED["new_name"], "age")),
    "another seq": (CHANGE_PROOF, edit("row", CHANGED["seq"], 2)),
    "another own hash": (CHANGE_PROOF, edit("row", CHANGED["row_hash"], "00" * 32)),
    "another target": (TRUE["planned target"], edit("row", 4, "tokyo")),
    "a row that is missing": (POLL_PROOF, edit("row", [])),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_proof_is_refused(forgery: str, accepts: Callable[..., bool]) -> None:
    true, forge = FORGERIES[forgery]
    document = copy.deepcopy(true)
    forge(document)
    # As JSON, because 1 == True in Python.
    assert json.dumps(document) != json.dumps(true)
    assert not accepts(document)


STRANGER = Path(__file__).with_name("check_proof.mjs")
#: The one that comes with the browser tests: not every machine has another.
NODE = Path(playwright.__file__).parent / "driver" / "node"


def test_a_checker_in_another_language_that_knows_the_page_alone_agrees(tmp_path: Path) -> None:
    """It was written from docs/evidence.md before its author read the product's code."""

    def accepts(document: Document, vkey: str = str(SIGNER.verifier)) -> bool:
        file = tmp_path / "proof.json"
        file.write_text(json.dumps(document), encoding="utf-8")
        done = subprocess.run([NODE, STRANGER, file, vkey], capture_output=True, check=False)
        return done.returncode == 0 and done.stdout.startswith(b"PROVEN")

    for which in ("poll", "poll without an app", "poll in the last seal", "change"):
        assert accepts(TRUE[which]), which
    for name in [*FORGERIES][::3]:
        true, forge = FORGERIES[name]
        document = copy.deepcopy(true)
        forge(document)
        assert not accepts(document), name
    assert not accepts(POLL_PROOF, str(OTHER.verifier))


def test_a_true_proof_is_refused_under_every_other_key(accepts: Callable[..., bool]) -> None:
    _, key_id, key = str(SIGNER.verifier).split("+", 2)
    for vkey in (
        str(OTHER.verifier),
        f"example.com/lag+{key_id}+{key}",
        f"example.com/log+00000000+{key}",
        "example.com/log",
    ):
        assert not accepts(POLL_PROOF, vkey)


def values_of(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the document has a value that is neither an object nor an array."""
    if isinstance(document, dict):
        pairs = list(document.items())
    elif isinstance(document, list):
        pairs = list(enumerate(document))
    else:
        return [path]
    return [found for key, value in pairs for found in values_of(value, (*path, key))]


CHECKED = [
    (document, path)
    for document in (POLL_PROOF, CHANGE_PROOF)
    for path in values_of(document)
    if path[0] not in ("format", "timestamp")
]


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sampled_from(CHECKED),
    st.none() | st.booleans() | st.integers(-2, 9) | st.sampled_from(["", "a", "00" * 32, 1.0, []]),
)
def test_no_value_of_a_proof_can_be_replaced(
    accepts: Callable[..., bool], where: tuple[Document, tuple[Any, ...]], value: Any
) -> None:
    true, path = where
    document = copy.deepcopy(true)
    edit(*path, value)(document)
    # As JSON, because 1 == True in Python.
    assert accepts(document) is (json.dumps(document) == json.dumps(true))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"format": 1}', "[" * 100_000])
def test_what_is_not_a_proof_is_refused_by_a_sentence(text: str) -> None:
    with pytest.raises(BadProof, match="is not a proof"):
        read_proof(text)


def test_the_columns_of_a_change_are_those_that_the_chain_hashes() -> None:
    assert (*HASHED, "prev_hash") == CHAIN_COLUMNS


def test_the_page_lists_the_columns_of_every_type() -> None:
    listed = re.findall(r"^- `(\w+-v1)`: ((?:`\w+`[, \n]*)+)", PAGE.read_text(), re.M)
    assert {type_: tuple(re.findall(r"\w+", columns)) for type_, columns in listed} == COLUMNS


def test_the_printed_program_has_about_thirty_lines_that_fit_the_page() -> None:
    assert PROGRAM.count("\n") < 45
    assert max(map(len, PROGRAM.splitlines())) <= 104
