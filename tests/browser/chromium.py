"""Get a Chromium: from PATH, on Debian as root by apt, elsewhere by Playwright's own download."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
#: The same engine without a window of its own to draw: a third of the processor time.
SHELL = "chromium-headless-shell"
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Where fonts are few, the same picture everywhere.
    "--font-render-hinting=none",
)
#: Debian's packages with what the page shows: Chinese, emoji, signs.
FONTS = ("fonts-noto-cjk", "fonts-noto-color-emoji", "fonts-noto-core", "fonts-dejavu-core")


class NoBrowserError(Exception):
    """There is no Chromium; the text says how to get one."""


def find_shell() -> str:
    """The path of Chromium's headless shell, or of a Chromium where there is no such package."""
    if found := shutil.which(SHELL):
        return found
    if not _on_path() and _can_install() and _install(SHELL) and (found := shutil.which(SHELL)):
        return found
    return find()


def find() -> str:
    """The path of a Chromium, installed first where there is none."""
    if found := _on_path():
        return found
    tried = []
    if _can_install():
        if _install("chromium") and (found := _on_path()):
            return found
        tried.append("apt-get install chromium failed")
    if _run([sys.executable, "-m", "playwright", "install", "chromium"], dict(os.environ)):
        from playwright.sync_api import sync_playwright

        with sync_playwright() as playwright:
            path = playwright.chromium.executable_path
        if Path(path).is_file():
            return path
    tried.append("`playwright install chromium` failed")
    raise NoBrowserError(
        f"The page's tests need a Chromium, and there is none: {'; '.join(tried)}. Install one "
        f"so that {' or '.join(NAMES[:2])} is on PATH (Debian: apt-get install chromium), or run "
        f"`.venv/bin/python -m playwright install --with-deps chromium`, then test again."
    )


def _can_install() -> bool:
    debian = Path("/etc/debian_version").is_file()
    return os.geteuid() == 0 and debian and shutil.which("apt-get") is not None


def _install(package: str) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    update = ["apt-get", "update", "-qq"]
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package, *FONTS]
    return _run(update, environment) and _run(install, environment)


def _on_path() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def _run(command: list[str], environment: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=900
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
