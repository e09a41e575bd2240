"""The pages that are made from the code have all of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from codexpool import addon
from codexpool.cli.main import COMMANDS
from codexpool.pool.identity import Status
from codexpool.protocol.routes import AS_SHIPPED
from codexpool.traces.events import Event, Kind
from docsite import reference
from tests.running import ROOT

DOCS = ROOT / "docs"


def command_paths(command: click.Command, path: str) -> Iterator[str]:
    yield path
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from command_paths(inner, f"{path} {name}")


def test_each_command_has_a_section_with_its_help() -> None:
    page = reference.commands()
    for name, entry in COMMANDS.items():
        assert f"[`{name}`](#codexpool-{name})" in page
        for path in command_paths(entry.load(), f"codexpool {name}"):
            level = "#" * (path.count(" ") + 2)
            assert f"\n{level} {path}\n\n```text\nUsage: {path}" in page


def test_the_sections_of_commands_do_not_depend_on_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    before = reference.commands()
    monkeypatch.setenv("COLUMNS", "40")
    assert reference.commands() == before


@pytest.mark.parametrize("name", [name for name, _, _ in addon.OPTIONS])
def test_an_option_has_a_row(name: str) -> None:
    assert f"\n| `{name}` |" in reference.options()


def test_every_metric_of_the_code_has_a_row() -> None:
    code = (ROOT / "codexpool" / "web" / "metrics.py").read_text(encoding="utf-8")
    page = reference.metrics()
    names = re.findall(r'"(codexpool_[a-z_]+)"', code)
    assert len(names) > 30
    assert [name for name in names if f"| `{name}` |" not in page] == []
    assert "| `codexpool_identity_status` | gauge | `identity`, `status` |" in page


def test_every_status_and_path_has_a_row() -> None:
    assert [status for status in Status if f"| `{status}` |" not in reference.statuses()] == []
    assert [row.path for row in AS_SHIPPED.rows if f"| `{row.path}` |" not in reference.paths()] == []


def test_a_table_is_a_table_whatever_is_in_its_cells() -> None:
    made = reference.table(("a", "b"), [("x | y", "<b>\nc")])
    assert made == "| a | b |\n| --- | --- |\n| x \\| y | &lt;b> c |"


def test_docs_name_every_key_and_kind_of_an_event() -> None:
    text = (DOCS / "events.md").read_text(encoding="utf-8")
    keys = Event(Kind.START, 0.0).document()
    assert [key for key in keys if not re.search(rf"^\| .*`{key}`", text, re.MULTILINE)] == []
    assert [kind for kind in Kind if f"`{kind}`" not in text] == []


def test_docs_name_every_environment_variable() -> None:
    text = (DOCS / "files.md").read_text(encoding="utf-8")
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "codexpool").rglob("*.py")))
    variables = set(re.findall(r'"(CODEXPOOL_[A-Z_]+)"', code))
    assert "CODEXPOOL_STATE" in variables
    assert {name for name in variables if f"`{name}`" not in text} == set()


def test_metrics_and_options_in_the_docs_exist() -> None:
    known = reference.metrics() + reference.options()
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md")))
    named = set(re.findall(r"codexpool_[a-z_]+", text))
    assert len(named) > 10
    assert {name for name in named if f"`{re.sub('_(bucket|sum|count)$', '', name)}`" not in known} == set()


def test_docs_name_every_status() -> None:
    text = (DOCS / "identities.md").read_text(encoding="utf-8")
    assert [status for status in Status if status is not Status.READY and f"`{status}`" not in text] == []
