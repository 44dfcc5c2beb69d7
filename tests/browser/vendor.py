"""Build the committed copies of third-party JavaScript again: `python -m tests.browser.vendor`.

Fetches the packages with npm, which checks them against the digests below, and copies what the
tests use. The page itself has no code of others.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent / "vendor"

PACKAGES = {
    "axe-core@4.14.1": (
        "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        {"axe.min.js": TESTS / "axe.min.js", "LICENSE": TESTS / "axe-core.LICENSE.txt"},
    ),
}


def main() -> None:
    for package, (integrity, files) in PACKAGES.items():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=-3)
            (archive,) = Path(folder).glob("*.tgz")
            digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if f"sha512-{digest}" != integrity:
                raise SystemExit(f"{package} has the digest sha512-{digest}, not {integrity}")
            with tarfile.open(archive) as content:
                for name, target in files.items():
                    member = content.extractfile(f"package/{name}")
                    assert member is not None, name
                    target.parent.mkdir(exist_ok=True)
                    target.write_bytes(edited(name, member.read()))


def edited(name: str, content: bytes) -> bytes:
    """Without the comment that leads developer tools to a map that is not here."""
    text = re.sub(r"\s*(//|/\*)# sourceMappingURL=\S+( \*/)?\s*$", "\n", content.decode())
    return text.encode()


if __name__ == "__main__":
    main()
