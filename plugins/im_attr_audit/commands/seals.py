"""The commands about seals: `checkpoint`, `prove`, and `verify --checkpoints`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from im_attr_audit.commands import shared
from im_attr_audit.commands.shared import CannotDo, positive, print_list
from im_attr_audit.settings import SEALER_URL
from im_attr_audit.text_format import counted

if TYPE_CHECKING:
    from im_attr_audit.evidence.note import Verifier
    from im_attr_audit.evidence.witnesses import Witness

#: How long a run of `checkpoint` may take to write a seal to a witness while it is verified.
_WRITTEN_WITHIN = 30
#: How long an answer of the vendor waits for a poll to be compared with.
_WAITS_FOR = timedelta(days=7)


def add_checkpoint(commands: Any) -> None:
    """The parser of `checkpoint`."""
    checkpoint = commands.add_parser(
        "checkpoint",
        help="seal what was recorded since the last seal, and write the checkpoint to witnesses",
        description="Check that the log of seals continues the last witnessed checkpoint and that "
        "the rows of the newest seal and of a share of the older ones are as they were sealed, "
        "close a seal over what was recorded since, sign the log's new head and write it to every "
        f"target. Logs in with {SEALER_URL.name} (attr_audit_sealer). Nothing is sealed if sealed "
        "rows differ, or if the last witnessed checkpoint is not a prefix of what is stored. Exit "
        "code 1: there are findings; 2: a target was not written, or nothing could be sealed.",
    )
    checkpoint.add_argument(
        "--key", type=Path, required=True, metavar="FILE", help="the signing key"
    )
    what = checkpoint.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--to",
        action="append",
        metavar="TARGET",
        help="where checkpoints are kept: file:/path, s3://…, gs://…, az://…, git:URL#branch or "
        "https://…; may be given several times",
    )
    checkpoint.add_argument(
        "--tsa", metavar="URL", help="have the checkpoint time-stamped by this RFC 3161 authority"
    )
    what.add_argument(
        "--new-key",
        metavar="NAME",
        help="make a key of this name (a URL without its scheme, such as example.com/audit), write "
        "it to the new file of --key and print its public half",
    )
    checkpoint.add_argument(
        "--poll",
        type=Path,
        metavar="FILE",
        help="also ask the vendor, with the connections in this file, and compare the answers with "
        "the record (exit code 1: one differs). Answers that wait for the next poll are kept in "
        "FILE.waiting",
    )
    checkpoint.add_argument(
        "--poll-apps",
        type=positive,
        default=10,
        metavar="N",
        help="with --poll: ask for at most so many apps in each run, one a second (default: 10)",
    )
    checkpoint.add_argument(
        "--full",
        action="store_true",
        help="read the rows of every older seal again before sealing, as verify --checkpoints does",
    )
    checkpoint.set_defaults(run=_checkpoint)


def add_prove(commands: Any) -> None:
    """The parser of `prove`."""
    prove = commands.add_parser(
        "prove",
        help="write a file that proves a poll or a change to an outsider",
        description="Write one JSON file, by which anyone who has the public key can check that "
        "this poll or change was recorded and sealed. docs/evidence.md has a program for that. "
        f"Connects with {SEALER_URL.name}, else as `verify`.",
    )
    prove.add_argument("--region", required=True, metavar="R", help="the app's region")
    prove.add_argument("--app", required=True, type=int, metavar="N", help="the app's SDKAppID")
    which = prove.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "--at",
        type=_time,
        metavar="T",
        help="prove the app's newest poll at or before this time (ISO 8601)",
    )
    which.add_argument("--seq", type=int, metavar="N", help="prove the app's change of this number")
    prove.add_argument("--vkey", metavar="KEY", help="the public key, to check the proof by it")
    prove.add_argument(
        "--out", type=Path, metavar="FILE", help="write to this file instead of standard output"
    )
    prove.set_defaults(run=_prove)


def add_checkpoints_to_verify(verify: Any) -> None:
    """The options of `verify` that compare with checkpoints."""
    verify.add_argument(
        "--checkpoints",
        action="append",
        metavar="DIR",
        help="compare every sealed poll, change, planned target, review, declaration and fold with "
        "the checkpoints in this folder or at this target; may be given several times. A file is a "
        "proof or checkpoint that somebody was given, which must be of the same log. Needs --vkey",
    )
    verify.add_argument(
        "--vkey", metavar="KEY", help="the public key of the checkpoints, or a file with it"
    )


def verify_checkpoints(given: argparse.Namespace) -> bool:
    """Carry out `verify --checkpoints`; whether everything is as it was sealed."""
    from im_attr_audit.record.seals.verify import check_seals

    if not given.vkey:
        raise CannotDo("--checkpoints needs --vkey: the public key of the checkpoints.")
    engine = shared.auditing_engine()
    try:
        files = [path for path in map(Path, given.checkpoints) if path.is_file()]
        places = [each for each in given.checkpoints if Path(each) not in files]
        if not places:
            raise CannotDo("--checkpoints needs a witness: its folder or target.")
        kept = [(str(path), _note_of(path)) for path in files]
        witnesses = [*map(_copy_of, places)]
        log, found = check_seals(
            engine, witnesses, _verifier(given.vkey), kept, patience=_WRITTEN_WITHIN
        )
    finally:
        engine.dispose()
    print(
        f"checkpoints: {counted(len(log.seals), 'seal')}, "
        f"{counted(found.rows, 'sealed row')} checked, "
        f"{counted(found.waiting, 'row')} not sealed yet"
    )
    print_list("NOT AS SEALED  ", found.findings)
    print_list("note: ", found.notes)
    return not found.findings


def _checkpoint(given: argparse.Namespace) -> int:
    from im_attr_audit.evidence.note import read_key_file, write_new_key
    from im_attr_audit.evidence.witnesses import open_witness
    from im_attr_audit.record.seals.lacking import at
    from im_attr_audit.record.seals.sealing import SealingRefused, make_checkpoint

    if given.new_key:
        print(write_new_key(given.key, given.new_key).verifier)
        return 0
    signer = read_key_file(given.key)
    witnesses = [open_witness(target) for target in given.to]
    unstamped: list[str] = []
    engine = shared.sealer_engine()
    try:
        stamp = _stamper(given.tsa, unstamped)
        sealed = make_checkpoint(engine, signer, witnesses, stamp=stamp, full=given.full)
    except SealingRefused as refused:
        if not refused.findings:
            raise
        print(refused)
        print_list("NOT AS SEALED  ", refused.findings)
        return 1
    finally:
        engine.dispose()
    polls, changes, planned = (sealed.seal.rows(kind)[0] for kind in range(3))
    print(
        f"seal {sealed.seal.n}, closed at {at(sealed.seal.closed_us)}: {counted(polls, 'poll')}, "
        f"{counted(changes, 'change')}, {counted(planned, 'planned target')}; "
        f"{counted(sealed.check.rows, 'older row')} checked"
    )
    print(sealed.seal.note, end="")
    for target in sealed.written:
        print(f"written to {target}")
    for failure in sealed.failed:
        print(f"not written: {failure}. The next run writes it there.", file=sys.stderr)
    for reason in unstamped:
        print(f"{reason}. The checkpoint has no time stamp.", file=sys.stderr)
    failed = bool(sealed.failed or unstamped)
    if given.poll:
        disagreements, silent = _poll(given, sealed.seal.n)
        print_list("DISAGREES  ", disagreements)
        for reason in silent:
            print(f"not compared: {reason}", file=sys.stderr)
        if disagreements:
            return 1
        failed = failed or bool(silent)
    return 2 if failed else 0


def _poll(given: argparse.Namespace, run: int) -> tuple[list[str], list[str]]:
    """Compare the answers that wait, and ask again: the disagreements, and what failed."""
    from im_attr_audit.commands.second_look import (
        in_turn,
        look,
        read_targets,
        read_waiting,
        write_waiting,
    )
    from im_attr_audit.record.looks import compare_look

    kept = given.poll.with_name(given.poll.name + ".waiting")
    targets = in_turn(read_targets(given.poll), run, given.poll_apps)
    disagreements: list[str] = []
    waiting, expired = [], []
    oldest = datetime.now(UTC) - _WAITS_FOR
    engine = shared.sealer_engine()
    try:
        with engine.connect() as connection:
            for each in read_waiting(kept):
                compared = compare_look(connection, each)
                if compared is None and each.asked_at < oldest:
                    expired.append(
                        f"{each.app.address}: no good poll followed within {_WAITS_FOR.days} days, "
                        f"so the answer of {each.asked_at:%Y-%m-%d} was not compared"
                    )
                elif compared is None:
                    waiting.append(each)
                elif compared.disagreement:
                    disagreements.append(compared.disagreement)
    finally:
        engine.dispose()
    looks, failed = look(targets, pause=lambda: time.sleep(1))
    write_waiting(kept, [*waiting, *looks])
    asked, waits = counted(len(looks), "app"), "waits" if len(waiting) == 1 else "wait"
    print(f"asked the vendor for {asked}, {counted(len(waiting), 'earlier answer')} {waits}")
    return disagreements, [*expired, *failed]


def _prove(given: argparse.Namespace) -> int:
    from im_attr_audit.apps import AppKey
    from im_attr_audit.record.seals.prove import prove_change, prove_poll

    app = AppKey(given.region, given.app)
    verifier = _verifier(given.vkey) if given.vkey else None
    engine = shared.auditing_engine()
    try:
        if given.at is not None:
            proof = prove_poll(engine, app, given.at, verifier)
        else:
            proof = prove_change(engine, app, given.seq, verifier)
    finally:
        engine.dispose()
    if given.out is None:
        print(proof.to_json(), end="")
    else:
        given.out.write_text(proof.to_json(), encoding="utf-8")
    return 0


def _copy_of(given: str) -> Witness:
    """A target, or the path of a folder."""
    from im_attr_audit.evidence.witnesses import open_witness

    path = Path(given)
    return open_witness(f"file:{quote(str(path.resolve()))}" if path.is_dir() else given)


def _note_of(path: Path) -> bytes:
    """The checkpoint in a file: of a proof, of a witness's file, or as it is."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CannotDo(f"{path} cannot be read: {error.strerror}") from None
    try:
        return str(json.loads(content)["note"]).encode()
    except (ValueError, KeyError, TypeError):
        return content


def _stamper(url: str | None, failed: list[str]) -> Callable[[bytes], bytes | None]:
    """What asks the authority; a reason why there is no time stamp is added to ``failed``."""
    from im_attr_audit.evidence.timestamps import TimestampFailed, request_timestamp

    def stamp(note: bytes) -> bytes | None:
        if url is None:
            return None
        try:
            return request_timestamp(url, note)
        except TimestampFailed as error:
            failed.append(str(error))
            return None

    return stamp


def _verifier(given: str) -> Verifier:
    from im_attr_audit.evidence.note import read_verifier

    path = Path(given)
    if "+" not in given and path.is_file():
        given = path.read_text(encoding="utf-8").strip()
    return read_verifier(given)


def _time(given: str) -> datetime:
    try:
        found = datetime.fromisoformat(given)
    except ValueError:
        raise argparse.ArgumentTypeError("not a time, such as 2026-11-01T12:00:00Z") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
