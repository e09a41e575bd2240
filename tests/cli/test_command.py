"""The command itself: help, usage errors, and mitmproxy started with the addon."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.running import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_help_names_every_subcommand(world: World) -> None:
    run = world.run("--help")

    assert run.returncode == 0
    assert all(name in run.stdout for name in ("run", "demo", "addon-path"))


def test_addon_path_is_the_addons_entry_file(world: World) -> None:
    run = world.run("addon-path")

    assert run.returncode == 0
    path = Path(run.stdout.strip())
    assert path.is_file()
    assert "addons = [" in path.read_text()


def test_run_passes_unknown_arguments_on(world: World) -> None:
    run = world.run("run", "--version")

    assert run.returncode == 0
    assert "Mitmproxy:" in run.stdout


def test_run_starts_mitmdump_with_the_addon(world: World) -> None:
    invalid = world.home / "invalid.toml"
    invalid.touch(mode=0o600)
    invalid.write_text("[pool")

    run = world.run("run", "-p", "0", "--config", str(invalid))

    assert run.returncode == 1
    assert f"codexpool: {invalid}" in run.stdout + run.stderr


def test_run_exits_with_mitmdumps_exit_code(world: World) -> None:
    run = world.run("run", "-p", "no-number")

    assert run.returncode == 1  # mitmproxy's own code for it
    assert "invalid int value" in run.stderr


ASKS = """
import os
from mitmproxy import ctx

def running():
    print("master", type(ctx.master).__name__, type(ctx.master.addons).__module__, os.getppid(), flush=True)
    print("filter", ctx.options.dumper_filter, flush=True)
    ctx.master.shutdown()
"""


def test_run_is_one_process_with_a_master_of_our_own(world: World) -> None:
    script = world.home / "asks.py"
    script.write_text(ASKS)

    pool = world.home / "pool.toml"
    run = world.run("run", "-p", "0", "--config", str(pool), "-s", str(script), "~q", "&", "~u x")

    assert run.returncode == 0, run.stderr
    assert f"master DumpMaster codexpool.proxy.mitm.master {os.getpid()}" in run.stdout
    assert "filter ~q & ~u x" in run.stdout  # mitmdump's own arguments
    assert f"{pool} does not exist yet, so no request is served: codexpool add NAME" in run.stdout


def test_run_says_that_mitmproxy_is_not_there(world: World) -> None:
    (world.home / "mitmproxy.py").write_text("raise ImportError('No module named mitmproxy')")
    world.environ["PYTHONPATH"] = os.pathsep.join([str(world.home), world.environ["PYTHONPATH"]])

    run = world.run("run")

    assert run.returncode == 1
    assert run.stderr == "codexpool: cannot start mitmdump: No module named mitmproxy; reinstall codexpool\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("--no-such-option",),
        ("demo", "--no-such-option"),
        ("demo", "--client", "telnet"),
        ("run", "--with", "nc"),
        ("addon-path", "too", "much"),
    ],
    ids=" ".join,
)
def test_a_usage_error_exits_with_2(world: World, arguments: tuple[str, ...]) -> None:
    run = world.run(*arguments)

    assert run.returncode == 2
    assert "usage:" in run.stderr.lower()
    assert "Traceback" not in run.stderr
