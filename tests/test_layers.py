"""The plan of the house: which package may import which (see CONTRIBUTING.md).

Every import counts, also one inside a function or under `TYPE_CHECKING`: a reader follows those, too.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.running import ROOT

PACKAGE = ROOT / "codexpool"

LAYERS = (
    "common",
    "tokens",
    "redaction",
    "protocol",
    "pool",
    "credentials",
    "config",
    "members",
    "state",
    "traces",
    "views",
    "local",
    "upkeep",
    "recording",
    "web",
    "proxy",
    "addon",
    "doctor",
    "cli",
)
"""From the ground up: a package imports only packages that stand before it."""

ONLY_FROM = {
    "doctor": {"cli"},
    "recording": {"cli", "proxy"},
    "proxy": {"addon", "cli"},
    "addon": set[str](),
}
"""Packages that only these may import."""


def modules(root: Path = PACKAGE) -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that ``path`` imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                if (inner := f"{node.module}.{alias.name}") in known:
                    yield inner
                elif node.module and node.module in known:
                    yield node.module


def graph(root: Path = PACKAGE) -> dict[str, set[str]]:
    """Return which modules each module imports."""
    known = modules(root)
    return {name: set(imports(name, path, known)) - {name} for name, path in known.items()}


def room(module: str) -> str:
    """Return the package below `codexpool` that a module belongs to; empty for `codexpool` itself."""
    return module.split(".")[1] if "." in module else ""


def circle(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return one circle of ``arrows``, or an empty list."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


ARROWS = graph()


def test_every_package_has_a_layer() -> None:
    assert {room(name) for name in ARROWS} - {""} == set(LAYERS)


def test_the_top_of_the_package_is_the_addon_alone() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} <= {"__init__.py", "__main__.py", "addon.py"}


def test_imports_point_down() -> None:
    height = {"": -1, **{name: floor for floor, name in enumerate(LAYERS)}}
    up = [f"{a} -> {b}" for a, found in ARROWS.items() for b in found if height[room(a)] < height[room(b)]]
    assert not up


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circle(ARROWS) == []


def test_no_package_imports_itself_by_way_of_others() -> None:
    rooms: dict[str, set[str]] = {}
    for name, found in ARROWS.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in found} - {room(name)})
    assert circle(rooms) == []


@pytest.mark.parametrize("guarded", ONLY_FROM)
def test_a_guarded_package_has_no_other_callers(guarded: str) -> None:
    callers = {room(name) for name, found in ARROWS.items() if guarded in {room(other) for other in found}}
    assert callers - {guarded} <= ONLY_FROM[guarded]


def test_lazy_and_type_checking_imports_count(tmp_path: Path) -> None:
    package = tmp_path / "codexpool"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("def f():\n    from codexpool import b\n")
    (package / "b.py").write_text("if TYPE_CHECKING:\n    from codexpool.a import f\n")
    assert circle(graph(package))


FACES = ("redaction",)
"""Packages with one public face: others import from the package itself, never from a module in it."""


@pytest.mark.parametrize("package", FACES)
def test_only_the_face_of_a_package_is_imported(package: str) -> None:
    inner = {name for name in ARROWS if name.startswith(f"codexpool.{package}.")}
    assert not [
        f"{name} -> {one}" for name, found in ARROWS.items() if room(name) != package for one in found & inner
    ]


MITMPROXYS_LAYERS = {
    "codexpool.proxy.resend",
    "codexpool.proxy.connections",
    "codexpool.proxy.tls_sessions",
    "codexpool.proxy.tunnels",
    "codexpool.proxy.relay",
    "codexpool.proxy.shortcut",
}
"""Modules that may import mitmproxy's protocol layers and private names, which any release may change."""

SPENDS_CREDITS = "codexpool.cli.commands.reset"

WITHOUT_MITMPROXY = {"common", "tokens", "protocol", "pool", "credentials", "config", "members", "state"}


def of_mitmproxy(path: Path) -> set[str]:
    """Return the full names that a file imports from mitmproxy."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.partition(".")[0] == "mitmproxy"}


def is_internal(name: str) -> bool:
    return name.startswith("mitmproxy.proxy.layers") or any(part.startswith("_") for part in name.split("."))


def test_only_named_modules_import_mitmproxys_internals() -> None:
    found = {name for name, path in modules().items() if any(map(is_internal, of_mitmproxy(path)))}
    assert found == MITMPROXYS_LAYERS


def test_the_packages_that_decide_do_not_know_mitmproxy() -> None:
    found = {room(name) for name, path in modules().items() if of_mitmproxy(path)}
    assert not found & WITHOUT_MITMPROXY


def test_only_the_state_imports_its_engines() -> None:
    """Its modules that do are imported by the thread that opens the state: SQLAlchemy takes a tenth of a second."""
    program = "import sys, codexpool.cli, codexpool.addon; print({'sqlalchemy', 'psycopg'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_only_the_command_reset_spends_a_credit() -> None:
    """No request of a proxy, and nothing in the background, may do so by itself."""
    calls = {
        name
        for name, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr == "spend_credit"
    }
    assert calls == {SPENDS_CREDITS}
