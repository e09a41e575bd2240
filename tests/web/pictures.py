"""Take the pictures of the page that the docs show, with made-up data: ``just pictures``."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tests.running import ROOT
from tests.web.browser import Browser
from tests.web.standin_site import StandInSite

FOLDER = ROOT / "docs" / "pictures"
LARGEST = 150_000  # Bytes of a picture: each is in every clone.
SETTLED = 1.0  # Seconds until everything is drawn.


class Picture(NamedTuple):
    """What of a scene is seen; ``at`` is the end of the page's address, ``beside`` an element to scroll to."""

    scene: str
    width: int
    height: int
    scheme: str = "light"
    at: str = ""
    beside: str = ""


PICTURES = {
    "page": Picture("normal", 1200, 600),
    "page-hour": Picture("normal", 1200, 860, beside="hour"),
    "page-request": Picture("normal", 1000, 640, at="#flow/00000000-0000-4000-8000-000000000001"),
    "page-first": Picture("empty", 1000, 370),
    "page-phone": Picture("normal", 390, 844, "dark"),
}


def take(browser: Browser, name: str, folder: Path) -> int:
    """Take a picture, and return its size in bytes."""
    picture = PICTURES[name]
    with StandInSite(picture.scene) as site:
        tab = browser.tab()
        tab.look(picture.width, picture.scheme, picture.height)
        tab.open(f"{site.url}/{picture.at}")
        tab.wait("!document.getElementById('content').hidden && document.querySelector('#chart svg, #begin-section')")
        time.sleep(SETTLED)
        if picture.beside:
            tab.run(f"document.getElementById({picture.beside!r}).scrollIntoView({{block: 'start'}})")
        file = folder / f"{name}.png"
        tab.picture(file, whole=False)
        tab.close()
    return file.stat().st_size


def main() -> int:
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(Path(profile))
        try:
            sizes = {name: take(browser, name, FOLDER) for name in PICTURES}
        finally:
            browser.close()
    for name, size in sizes.items():
        print(f"{FOLDER / name}.png: {size:,} bytes{' (too large)' if size > LARGEST else ''}")
    return int(max(sizes.values()) > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
