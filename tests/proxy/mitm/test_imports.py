"""What a running proxy imports later is imported soon after its start."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from codexpool.proxy.mitm import imports
from codexpool.proxy.mitm.imports import LATER, import_later

ROOT = Path(imports.__file__).parents[3]

ELSEWHERE = ("codexpool.cli.", "codexpool.doctor.", "codexpool.local.ca_files")  # Commands: processes of their own.
OPENING = "codexpool.state.opening"  # Its imports happen as the state is opened, at the start.

FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def file_of(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)


def imported(statement: ast.stmt) -> Iterator[str]:
    """Yield the modules that a statement imports."""
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom) and statement.module:
        for alias in statement.names:
            name = f"{statement.module}.{alias.name}"
            yield name if file_of(name) is not None else statement.module


@cache
def imports_of(module: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the modules that one imports at once, and those that its functions import."""
    file = file_of(module)
    if file is None:
        return frozenset(), frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    nodes = list(ast.walk(tree))
    within = {id(node) for function in nodes if isinstance(function, FUNCTION) for node in ast.walk(function)}
    statements = [node for node in nodes if isinstance(node, ast.stmt)]
    return (
        frozenset(name for node in statements if id(node) not in within for name in imported(node)),
        frozenset(name for node in statements if id(node) in within for name in imported(node)),
    )


def at_the_start() -> set[str]:
    """Return all modules that the addon imports at its start."""
    found, new = set[str](), {"codexpool.addon", *imports_of(OPENING)[1]}
    while new:
        found |= new
        new = {name for module in new for name in imports_of(module)[0]} - found
    return found


def is_of_python_or_mitmproxy(name: str) -> bool:
    return name.partition(".")[0] in (*sys.stdlib_module_names, "mitmproxy")


def test_each_import_within_a_function_is_made_in_time() -> None:
    started = at_the_start()
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in (ROOT / "codexpool").rglob("*.py")]
    late = {
        f"{name}, by {module}"
        for module in modules
        if not module.startswith(ELSEWHERE)
        for name in imports_of(module)[1]
        if not is_of_python_or_mitmproxy(name) and name not in LATER and name not in started
    }
    assert "codexpool.upkeep.keeper" in started
    assert late == set()


async def test_a_library_that_is_missing_does_not_keep_the_others_from_being_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read: list[str] = []
    monkeypatch.setattr(imports, "PAUSE", 0.0)
    monkeypatch.setattr(imports, "LATER", ("no_such_library_of_codexpool", "wave"))
    monkeypatch.setattr(imports, "read_pages", lambda: read.append("pages"))
    monkeypatch.delitem(sys.modules, "wave", raising=False)
    await import_later()
    assert "wave" in sys.modules
    assert read == ["pages"]
