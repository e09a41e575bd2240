"""What is promised for every command: they are found by walking the tree, so that a new one is tested, too.

Each runs in this process, on a machine from which it reaches nothing: without a pool, with an empty one, with one,
and beside a proxy that has another one.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from codexpool.cli import common, output
from codexpool.cli.common import open_the_state
from codexpool.cli.main import main
from codexpool.credentials.http_client import Route
from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import IdentityKey, Metadata
from codexpool.state import Record, record_name
from codexpool.tokens.bearer import Bearer
from tests.cli.fakeproxy import FakeProxy, event, identity, status
from tests.running import ROOT
from tests.traces.documents import document

Path_ = tuple[str, ...]

TOKEN: Final = "at-test-0123456789abcdef0123456789abcdef"
ACCOUNT: Final = "8d3f4c1e-9b7a-4e55-a0c2-5f6e7d8c9b0a"
USER: Final = "user-Ab3dE5fG7hI9jK1lM3nO5pQ7"
POOL: Final = f"""
[[identity]]
name = "work"
token = "{TOKEN}"
account_id = "{ACCOUNT}"
user_id = "{USER}"

[[member]]
name = "ann"
key = "sha256:{"0" * 64}"
"""

ARGUMENTS: Final[Mapping[Path_, tuple[str, ...]]] = {
    ("add",): ("new", "--token-stdin"),
    ("login",): ("new",),
    ("show",): ("work",),
    ("replace",): ("work", "--token-stdin"),
    ("rename",): ("work", "other"),
    ("pause",): ("work",),
    ("resume",): ("work",),
    ("reset",): ("work", "--yes"),
    ("pin",): ("01a1fc00-1234-7abc-8def-0123456789ab", "work"),
    ("unpin",): ("01a1fc00-1234-7abc-8def-0123456789ab",),
    ("remove",): ("work",),
    ("tail",): ("--no-follow",),
    ("explain",): ("last",),
    ("diff",): ("--identities", "work", "work"),
    ("record",): ("out.har", "--from", "missing.flows"),
    ("member", "add"): ("bob",),
    ("member", "expires"): ("ann", "never"),
    ("member", "remove"): ("ann",),
    ("member", "revoke"): ("ann",),
    ("member", "rotate"): ("ann",),
    ("state", "copy"): ("--to", "postgresql://127.0.0.1:1/none"),
    ("completion",): ("bash",),
}
"""The arguments of those that need some."""

PROCESSES: Final = frozenset({("run",), ("demo",)})
"""Those that do nothing but start processes."""


def walk(command: click.Command, path: Path_, context: click.Context) -> Iterator[tuple[Path_, click.Command]]:
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name), click.Context(found, info_name=name, parent=context))
        if not command.invoke_without_command:
            return
    yield path, command


def commands() -> Iterator[tuple[Path_, click.Command]]:
    """Every command that can be run, and where it is."""
    for path, command in walk(main, (), click.Context(main)):
        if path not in PROCESSES:
            yield path, command


def has_json(command: click.Command) -> bool:
    return any("--json" in parameter.opts for parameter in command.params)


class Machine:
    """A machine of which nothing is known, and what is on it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pool, self.text = folder / "pool.toml", ""
        self._monkeypatch = monkeypatch
        (folder / "bin").mkdir()
        for name, value in {
            "HOME": folder,
            "PATH": folder / "bin",
            "XDG_CONFIG_HOME": folder / "config",
            "XDG_DATA_HOME": folder / "data",
            "XDG_STATE_HOME": folder / "state",
            "XDG_RUNTIME_DIR": folder / "run",
            "CODEXPOOL_CONFIG": self.pool,
            "CODEXPOOL_STATE": folder / "state.sqlite3",
            "CODEXPOOL_PROXY": "http://127.0.0.1:1",
        }.items():
            monkeypatch.setenv(name, str(value))
        for name in ("COLUMNS", "EDITOR", "VISUAL", "CODEX_HOME", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(common, "route", lambda: Route("http://127.0.0.1:1"))

    def has(self, text: str) -> None:
        self.text = text
        self.pool.write_text(text)
        self.pool.chmod(0o600)

    def has_served(self) -> None:
        """As if a proxy had served with the identity."""
        fingerprint = Bearer.of(TOKEN).fingerprint
        now = time.time()
        with open_the_state() as state:
            scope, key = state.scope(self.pool), IdentityKey(ACCOUNT, USER)
            state.put_metadata(fingerprint, Metadata(ACCOUNT, USER, "business", email="ann@example.invalid"), now)
            state.put_record(record_name(scope, "work"), Record(fingerprint, key, now))
            state.put_spent(Account(scope, "2099-11-25", "ann", "work", "gpt-5"), Spent(1, 0, 2, 3, 4, 5, now, now))

    def is_beside(self, proxy: FakeProxy) -> None:
        """There is a proxy that has another pool."""
        proxy.status = status(identities=[identity("elsewhere", email=None, account_id=ACCOUNT)])
        proxy.flows = [document()]
        proxy.events = [event()]
        self._monkeypatch.setenv("CODEXPOOL_PROXY", proxy.url)

    def run(self, path: Path_, *more: str) -> Result:
        """Run a command; what an earlier one changed in pool.toml is as before."""
        if self.text:
            self.has(self.text)
        arguments = [*path, *ARGUMENTS.get(path, ()), *more]
        return CliRunner().invoke(main, arguments, input=f"{TOKEN}\n", prog_name="codexpool")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


@pytest.fixture(params=["no pool", "an empty pool", "a pool", "a pool, and a proxy with another one"])
def any_machine(request: pytest.FixtureRequest, machine: Machine) -> Iterator[Machine]:
    if request.param == "an empty pool":
        machine.has("# nothing yet\n")
    if "a pool" in request.param:
        machine.has(POOL)
        machine.has_served()
    if "a proxy" not in request.param:
        yield machine
        return
    with FakeProxy() as proxy:
        machine.is_beside(proxy)
        yield machine


def faults(result: Result) -> Iterator[str]:
    """What no command may do."""
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        yield f"{type(result.exception).__name__}: {result.exception}"
    if result.exit_code not in (0, 1, 2):
        yield f"exit code {result.exit_code}"
    if "\x1b" in result.output:
        yield "control characters"
    if "Traceback" in result.output:
        yield "a traceback"
    if result.exit_code == 2 and result.stdout:
        yield f"prints {result.stdout!r} and fails"
    if result.exit_code and not result.output:
        yield "fails without a word"


def test_every_command_ends_in_words(any_machine: Machine) -> None:
    """With an exit code that says how, and into a pipe without colours."""
    found = {path: list(faults(any_machine.run(path))) for path, _ in commands()}

    assert {" ".join(path): what for path, what in found.items() if what} == {}


def test_json_is_one_object_with_its_version(any_machine: Machine) -> None:
    def fault(path: Path_) -> str:
        result = any_machine.run(path, "--json")
        if what := list(faults(result)):
            return ", ".join(what)
        documents = result.stdout.splitlines() if path == ("tail",) else [result.stdout] * bool(result.stdout)
        for text in documents:
            told = json.loads(text)
            if not isinstance(told, dict) or next(iter(told)) != "version" or told["version"] != 1:
                return f"{text:.200} has no envelope"
        return "" if documents or result.exit_code else "prints nothing"

    found = {path: fault(path) for path, command in commands() if has_json(command)}

    assert {" ".join(path): what for path, what in found.items() if what} == {}
    assert len(found) > 10


OF_THE_PROXY: Final = frozenset({("status",), ("tail",), ("explain",)})
"""What they print is described where the API of a proxy is."""


def keys_of(document: dict[str, Any]) -> Iterator[str]:
    """The keys of a document, and of the rows in it; not those that are names."""
    for key, value in document.items():
        yield key
        for row in value if isinstance(value, list) else ():
            yield from keys_of(row) if isinstance(row, dict) else ()


def test_each_key_is_described(machine: Machine) -> None:
    described = (ROOT / "docs" / "json.md").read_text()
    machine.has(POOL)
    machine.has_served()

    found = {
        path: [key for key in keys_of(json.loads(told)) if f"`{key}`" not in described]
        for path, command in commands()
        if has_json(command) and path not in OF_THE_PROXY and (told := machine.run(path, "--json").stdout)
    }

    assert {" ".join(path): keys for path, keys in found.items() if keys} == {}
    assert len(found) > 8


TABLES: Final = (
    (("list",), "--ids"),
    (("check",), "--ids"),
    (("member", "list"),),
    (("usage",),),
    (("doctor",), "--routes"),
)


def test_at_40_columns_a_table_has_its_key_whole(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.has(POOL)
    machine.has_served()
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "40")
    keys: list[str] = []
    fitting = output._fitting

    def noted(columns: Any, rows: Any, out: Console) -> Any:
        keys.extend(columns[0].shown(row[columns[0].key]) for row in rows)
        return fitting(columns, rows, out)

    monkeypatch.setattr(output, "_fitting", noted)
    for path, *more in TABLES:
        keys.clear()
        shown = click.unstyle(machine.run(path, *more).stdout)
        assert keys, path
        lines = shown.splitlines()
        assert [key for key in keys if not any(line.startswith(key) for line in lines)] == [], shown


def test_into_a_pipe_a_row_is_a_line_and_an_id_is_whole(machine: Machine) -> None:
    machine.has(POOL)
    machine.has_served()

    for path, *more in TABLES:
        title, *rows = machine.run(path, *more).stdout.splitlines()
        assert rows, path
        assert {row.count("\t") for row in rows} == {title.count("\t")}, path
    assert f"\t{ACCOUNT}\t{USER}\t" in machine.run(("list",), "--ids").stdout
    assert ACCOUNT not in machine.run(("list",)).stdout
    assert f"account id\t{ACCOUNT}\n" in machine.run(("show",)).stdout


@contextmanager
def full_disk() -> Iterator[None]:
    """No file grows, as on a full disk. Python ignores the signal that comes with it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_every_command_ends_in_words_and_nothing_is_half_written(machine: Machine) -> None:
    machine.has(POOL)
    machine.has_served()
    loaded = list(commands())

    found: dict[str, list[str]] = {}
    for path, _ in loaded:
        machine.has(POOL)
        arguments = [*path, *ARGUMENTS.get(path, ())]
        with full_disk():
            result = CliRunner().invoke(main, arguments, input=f"{TOKEN}\n", prog_name="codexpool")
        found[" ".join(path)] = [*faults(result), *(["changes pool.toml"] * (machine.pool.read_text() != POOL))]

    assert {path: what for path, what in found.items() if what} == {}
