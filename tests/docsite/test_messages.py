"""docs/troubleshooting.md quotes messages that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.running import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
GAP = "\0"  # what is filled in


def texts(node: ast.AST) -> Iterator[str]:
    """Yield the strings of a module, with a gap for each value that is filled in."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        yield from texts(child)


@cache
def corpus() -> str:
    files = sorted([*(ROOT / "codexpool").rglob("*.py"), ROOT / "addon"])
    found = (text for path in files for text in texts(ast.parse(path.read_text(encoding="utf-8"))))
    return "\n".join(re.sub(r"%[.\d]*[a-z]", GAP, text) for text in found)


def quoted() -> list[str]:
    """The messages of codexpool that the page has in the first column of its tables."""
    clients, _, rest = PAGE.read_text(encoding="utf-8").partition("\n## The proxy's log says\n")
    return [
        message.partition("codexpool: ")[2] or message
        for part in (clients, rest)
        for row in re.findall(r"^\| (.*?) \| ", part, re.MULTILINE)
        for _, message in re.findall(r"(`+) ?(.+?) ?\1(?!`)", row)
        if "codexpool: " in message or part is rest  # The others are the client's own.
    ]


@pytest.mark.parametrize("message", quoted())
def test_a_message_of_codexpool_is_one_that_it_prints(message: str) -> None:
    longest = max((piece.strip(" ,") for piece in message.partition(", or try again")[0].split("…")), key=len)
    assert len(longest) > 4
    assert longest in corpus()


def test_the_page_has_messages_of_all_three() -> None:
    assert len(quoted()) > 30
