"""The commands and options that the docs name exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from codexpool.cli.main import main
from tests.running import ROOT

TEXTS = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "SECURITY.md"]
NAMES = [path.name for path in TEXTS]

PASSES_ON = {"run", "record"}  # Take mitmproxy's options, too.
CODE = re.compile(
    r"^```[^\n]*\n(?P<block>.*?)^```|(?P<quote>`+) ?(?P<span>[^\n]+?) ?(?P=quote)(?!`)", re.MULTILINE | re.DOTALL
)
# A call is at the beginning of a line or of a part of it, or behind the container that it runs in.
CALL = re.compile(
    r"(?:^|[$(;&|]|\bor:|\brun|codexpool|proxy-a)\s*codexpool ((?!addon\b|\d)[^\n#;|&<>)`]*)", re.MULTILINE
)


def calls(text: str) -> Iterator[list[str]]:
    """Yield the words of each call of codexpool in the code of a page."""
    for found in CODE.finditer(text):
        for call in CALL.finditer(found["block"] or found["span"] or ""):
            yield re.split(r"\s+", call[1].split(" -- ")[0].strip(" …\"'"))


def problem(words: list[str]) -> str:
    """Return what does not exist in a call; empty if all of it does."""
    command: click.Command = main
    context = click.Context(main, info_name="codexpool")
    rest = list(words)
    while isinstance(command, click.Group) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0].rstrip(",.:")):
        name = rest.pop(0).rstrip(",.:")
        inner = command.get_command(context, name)
        if inner is None:
            return f"no command {name}"
        command, context = inner, click.Context(inner, info_name=name, parent=context)
    known = {
        option for parameter in command.get_params(context) for option in (*parameter.opts, *parameter.secondary_opts)
    }
    unknown = [word for word in map(_option, rest) if word and word not in known]
    return "" if not unknown or command.name in PASSES_ON else f"{context.command_path} has no {', '.join(unknown)}"


def _option(word: str) -> str:
    found = re.match(r"--[a-z][a-z-]*", word.lstrip("[("))
    return found[0] if found is not None else ""


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_commands_and_options_in_the_docs_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert [(words, wrong) for words in calls(text) if (wrong := problem(words))] == []


def test_calls_are_found_in_blocks_and_in_text() -> None:
    text = (
        '```sh\neval "$(codexpool env --identity work)" && codex   # codexpool is\n```\nor `codexpool check NAME…`.'
    )
    assert list(calls(text)) == [["env", "--identity", "work"], ["check", "NAME"]]
    assert sum(len(list(calls(path.read_text(encoding="utf-8")))) for path in TEXTS) > 100


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("list --jason", "codexpool list has no --jason"),
        ("lost", "no command lost"),
        ("member invite", "no command invite"),
        ("member add ann --key", "codexpool member add has no --key"),
        ("run --mode upstream:x", ""),
        ("--version", ""),
    ],
)
def test_what_does_not_exist_is_found(call: str, wrong: str) -> None:
    assert problem(call.split()) == wrong
