"""The pages of the reference that are made from the code, so that they say what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import click

INTRODUCTION: Final = "This page is made from the code of this version."
WIDTH: Final = 100  # columns of the help texts
EXAMPLE: Final = Path(__file__).parent.parent / "config" / "pool.example.toml"


def commands() -> str:
    """Return all commands by group, with their ``--help``."""
    from codexpool.cli.main import GROUPS, main

    root = click.Context(main, info_name="codexpool")
    parts = []
    for title, group in GROUPS.items():
        parts.append(f"## {title}")
        parts.append(
            table(("command", "what it does"), ((link(name), entry.summary) for name, entry in group.items()))
        )
        for name, entry in group.items():
            parts += helps(entry.load(), name, root)
    codes = "Exit codes: 0; 1 for a failure, or if a person has to act; 2 for wrong usage; 130 after Ctrl-C."
    return joined("# Commands", f"{INTRODUCTION} `codexpool COMMAND --help` prints the same. {codes}", *parts)


def helps(command: click.Command, name: str, parent: click.Context, level: int = 3) -> Iterator[str]:
    """Yield the help of a command, and of the commands in it."""
    context = click.Context(command, info_name=name, parent=parent, terminal_width=WIDTH)
    yield f"{'#' * level} {context.command_path}\n\n```text\n{command.get_help(context)}\n```"
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            if found is not None and not found.hidden:
                yield from helps(found, inner, context, level + 1)


def options() -> str:
    """Return the addon's options for mitmproxy, and mitmproxy's own options that it changes or refuses."""
    from codexpool.addon import OPTIONS
    from codexpool.proxy.mitm.options import DEFAULTS, UNFIT_FOR_A_POOL

    def setting(name: str, value: object) -> str:
        return code(f"{name}={str(value).lower()}")

    return joined(
        "# Options of the proxy",
        f"{INTRODUCTION} Pass an option with `--set NAME=VALUE` to `codexpool run` or mitmproxy, or write it to "
        "mitmproxy's `config.yaml`. All options of mitmproxy work, too ([what codexpool changes](../mitmproxy.md)).",
        "## Options of codexpool",
        table(("option", "default", "meaning"), ((code(name), code(value), text) for name, value, text in OPTIONS)),
        "## Options of mitmproxy with another default",
        table(("default here",), ((setting(*changed),) for changed in DEFAULTS.items())),
        "## Options of mitmproxy that are refused with a pool",
        table(("option", "because"), ((setting(name, value), why) for name, value, why in UNFIT_FOR_A_POOL)),
        "Also `stream_large_bodies`, because a streamed request cannot be sent again, and `ignore_hosts` or "
        "`tcp_hosts` that match the backend.",
    )


def paths() -> str:
    """Return which requests get an identity."""
    from codexpool.protocol.routes import AS_SHIPPED

    rows = (
        (code(row.path), ", ".join(row.methods) or "any", row.policy.value, "yes" if row.repeatable else "")
        for row in AS_SHIPPED.rows
    )
    return joined(
        "# Paths",
        f"{INTRODUCTION} `codexpool doctor --routes` prints the same, with what your pool.toml changes; "
        "[doctor.md](../doctor.md#the-table-of-paths) says what the policies mean. A path that ends in `/` includes "
        "everything below it. Paths of the backend that are not listed keep the client's own credential.",
        table(("path", "methods", "policy", "sent again after a lost connection"), rows),
    )


def settings() -> str:
    """Return the example of pool.toml."""
    return joined(
        "# pool.toml",
        f"All settings, in the words of [config/pool.example.toml](../../config/{EXAMPLE.name}). "
        "`codexpool config check` tells which file is used, and what is wrong in it.",
        f"```toml\n{EXAMPLE.read_text(encoding='utf-8').rstrip()}\n```",
    )


def metrics() -> str:
    """Return the metrics, each with its type, labels and meaning."""
    from codexpool.pool.pool import Pool
    from codexpool.state.fleet import Fleet
    from codexpool.traces.history import History
    from codexpool.web.metrics import families
    from codexpool.web.status import View

    suffixes = {"counter": "_total", "info": "_info"}

    def row(family: Any) -> tuple[str, ...]:
        name = family.name + suffixes.get(family.type, "")
        labels = ", ".join(map(code, getattr(family, "_labelnames", ())))
        return code(name), family.type, labels, family.documentation

    view = View(History(), Pool(), fleet=Fleet("sqlite", "", True, 0.0, 0))
    return joined(
        "# Metrics",
        f"{INTRODUCTION} `http://codex.pool/metrics`, through the proxy, has them in the text format of Prometheus "
        "([how to scrape them, and useful alerts](../running.md#metrics)). On Linux it has `process_…` metrics, too.",
        table(
            ("metric", "type", "labels", "meaning"),
            (row(f) for f in families(view, 0.0) if f.name.startswith("codex")),
        ),
    )


def statuses() -> str:
    """Return the statuses of an identity."""
    from codexpool.pool.identity import Status
    from codexpool.pool.needs import NEED
    from codexpool.pool.states import RETURNING

    def yes(is_so: bool) -> str:
        return "yes" if is_so else ""

    rows = ((code(s), yes(s is Status.READY), NEED.get(s, ""), yes(s in RETURNING)) for s in Status)
    return joined(
        "# Statuses",
        f"{INTRODUCTION} [Identities](../identities.md#when-an-identity-needs-you) says what to do about each.",
        table(("status", "serves", "in words", "ends by itself"), rows),
    )


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/commands.md": commands,
    "reference/options.md": options,
    "reference/settings.md": settings,
    "reference/paths.md": paths,
    "reference/statuses.md": statuses,
    "reference/metrics.md": metrics,
}
"""The address of each page, and the function that makes it."""


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (head, ("---",) * len(head), *rows)
    return "\n".join(f"| {' | '.join(map(cell, line))} |" for line in lines)


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def link(command: str) -> str:
    return f"[`{command}`](#codexpool-{command})"


def joined(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"
