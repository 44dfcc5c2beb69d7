"""Where checkpoints are kept: a folder, an object store, a git repository, an HTTPS server.

A witness holds one file per checkpoint, ``000000000012.json`` for that of 12 seals, in one folder.
A file is created once; nothing here overwrites or deletes one. Keep one folder per log.

Every method raises WitnessFailed (an OSError) where the witness cannot be used now, and `write`
raises WitnessConflict where the witness holds another content.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from im_attr_audit.evidence.git_witness import GitWitness as GitWitness
from im_attr_audit.evidence.https_witness import HttpsWitness
from im_attr_audit.evidence.stores import OBJECT_STORES, FileWitness, ObjectWitness
from im_attr_audit.evidence.targets import refuse_secrets
from im_attr_audit.evidence.witness import BadTarget as BadTarget
from im_attr_audit.evidence.witness import Witness as Witness
from im_attr_audit.evidence.witness import WitnessConflict as WitnessConflict
from im_attr_audit.evidence.witness import WitnessFailed as WitnessFailed


def open_witness(target: str) -> Witness:
    """The witness of a target. Raises BadTarget.

    ``file:/path``, ``s3://bucket/prefix`` (``gs``, ``az`` alike), ``git:URL#branch`` (``main``
    where no branch is named), ``https://host/path``.
    """
    refuse_secrets(target)
    scheme, _, rest = target.partition(":")
    if scheme == "file":
        path = unquote(rest.removeprefix("//"))
        if not path.startswith("/"):
            raise BadTarget("a file target needs an absolute path: file:/srv/witness")
        return FileWitness(target, Path(path))
    if scheme in OBJECT_STORES:
        return ObjectWitness(target, scheme, rest.removeprefix("//").rstrip("/"))
    if scheme == "git":
        url, _, branch = rest.partition("#")
        return GitWitness(target, url, branch or "main")
    if scheme in ("https", "http"):
        return HttpsWitness(target)
    raise BadTarget(
        f"{_beginning(target)} is not of a known form: write file:/path, "
        "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, git:URL#branch or "
        "https://host/path"
    )


def _beginning(target: str) -> str:
    """The scheme at most: the rest of what is not understood can be a password."""
    found = re.match(r"[a-z][a-z0-9+.-]*://", target)
    return f"the target {found[0]}…" if found else "the target"
