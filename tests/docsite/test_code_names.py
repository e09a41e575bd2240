"""The files and names that the docs for contributors point to exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codexpool.cli.main import COMMANDS
from tests.running import ROOT

PAGES = ("CONTRIBUTING.md", "docs/how-it-works.md", "docs/protocol.md", "docs/performance.md")
FILE = re.compile(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|js|md|toml))`(?:: ((?:`[A-Za-z_.]+`(?:, and |, | and )?)+))?")


def file_of(name: str) -> Path | None:
    return next((path for path in (ROOT / "codexpool" / name, ROOT / name) if path.is_file()), None)


@pytest.mark.parametrize("page", PAGES)
def test_files_and_what_is_in_them_exist(page: str) -> None:
    missing = []
    for name, inside in FILE.findall((ROOT / page).read_text(encoding="utf-8")):
        path = file_of(name)
        text = path.read_text(encoding="utf-8") if path is not None else ""
        names = re.findall(r"`([A-Za-z_.]+)`", inside)
        missing += [f"{name}: {each}" for each in names or [""] if each.rpartition(".")[2] not in text or not text]
    assert missing == []


def test_names_of_files_are_found() -> None:
    assert FILE.findall("`pool/verdict.py`: `TABLE`, and `a.b`; `web/static/signs.js`") == [
        ("pool/verdict.py", "`TABLE`, and `a.b`"),
        ("web/static/signs.js", ""),
    ]


def test_docs_tell_of_every_command() -> None:
    pages = [*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    text = "".join(path.read_text(encoding="utf-8") for path in pages)
    assert [name for name in COMMANDS if not re.search(rf"codexpool {name}\b|, `{name}\b", text)] == []
