"""Build the committed copies of third-party JavaScript again: `python -m tests.browser.vendor`.

Fetches the packages with npm, which checks them against the digests below, and copies what is
used. One edit: vis-timeline's bundle puts its styles into the page by itself, which the page's
Content-Security-Policy forbids; they are linked as a file instead, and that function is emptied.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "plugins/im_attr_audit/page/static/vendor"
TESTS = Path(__file__).parent / "vendor"

PACKAGES = {
    "vis-timeline@8.5.4": (
        "sha512-Xt7RNrRvOkQiSyk6vFTXSRwTunT0y9MzDgHY8N8H9nPuebJ6Vg+u3xnv0Swbxna/Pa2E3HjaBblEIQiK74E01Q==",
        {
            "standalone/esm/vis-timeline-graph2d.min.mjs": PAGE / "vis-timeline.mjs",
            "styles/vis-timeline-graph2d.min.css": PAGE / "vis-timeline.css",
            "LICENSE.MIT.txt": PAGE / "vis-timeline.LICENSE.txt",
        },
    ),
    "axe-core@4.14.1": (
        "sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
        {"axe.min.js": TESTS / "axe.min.js", "LICENSE": TESTS / "axe-core.LICENSE.txt"},
    ),
}

# y(css, {insertAt}) makes a <style> element.
_INJECTS = re.compile(
    r"function (\w+)\(t,e\)\{void 0===e&&\(e=\{\}\);var i=e\.insertAt;.{0,400}?"
    r"createTextNode\(t\)\)\}\}"
)


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
    if name.endswith("graph2d.min.mjs"):
        text, count = _INJECTS.subn(r"function \1(){}", text)
        assert count == 1, f"{count} places put styles into the page"
    return text.encode()


if __name__ == "__main__":
    main()
