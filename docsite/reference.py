"""The pages of the reference that are made from the code, so that they say what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import click

INTRODUCTION: Final = "This page is made from the code of this version."
WIDTH: Final = 100  # columns of the help texts


def commands() -> str:
    """Return all commands with their ``--help``."""
    from codexpool.cli.main import main

    def sections(command: click.Command, path: str, parent: click.Context | None) -> Iterator[str]:
        context = click.Context(command, info_name=path.rpartition(" ")[2], parent=parent, max_content_width=WIDTH)
        context.terminal_width = WIDTH
        heading = "#" * min(path.count(" ") + 2, 4)
        yield f"{heading} {path}\n\n```text\n{command.get_help(context)}\n```"
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                if (child := command.get_command(context, name)) is not None and not child.hidden:
                    yield from sections(child, f"{path} {name}", context)

    text = "Exit codes: 0, 1 for a failure or if a person has to act, 2 for wrong usage, 130 after Ctrl-C."
    return joined(
        "# Commands",
        f"{INTRODUCTION} `codexpool COMMAND --help` prints the same. {text}",
        *sections(main, "codexpool", None),
    )


def options() -> str:
    """Return the addon's options for mitmproxy, and mitmproxy's own options that it changes or refuses."""
    from codexpool.addon import OPTIONS
    from codexpool.proxy.mitm.options import DEFAULTS, UNFIT_FOR_A_POOL

    ours = table(
        ("option", "default", "meaning"), ((code(name), code(default), text) for name, default, text in OPTIONS)
    )
    changed = table(("option", "value"), ((code(name), code(str(value).lower())) for name, value in DEFAULTS.items()))
    refused = table(
        ("option", "with a pool, because"), ((code(f"{n}={str(v).lower()}"), why) for n, v, why in UNFIT_FOR_A_POOL)
    )
    return joined(
        "# Options of the proxy",
        f"{INTRODUCTION} Pass an option with `--set NAME=VALUE` to `codexpool run` or mitmproxy, or write it to "
        "mitmproxy's `config.yaml`. All options of mitmproxy work, too ([what codexpool changes](../mitmproxy.md)).",
        "## Options of codexpool",
        ours,
        "## Options of mitmproxy with another default",
        changed,
        "## Options of mitmproxy that are refused",
        refused,
    )


def metrics() -> str:
    """Return the metrics, each with its type, labels and meaning."""
    from codexpool.pool.pool import Pool
    from codexpool.state.fleet import Fleet
    from codexpool.traces.history import History
    from codexpool.web.metrics import _families
    from codexpool.web.status import View

    view = View(History(), Pool(), fleet=Fleet("sqlite", "", True, 0.0, 0))
    rows = (
        (
            code(
                f"{f.name}_{'total' if f.type == 'counter' else f.type}" if f.type in ("counter", "info") else f.name
            ),
            f.type,
            ", ".join(map(code, getattr(f, "_labelnames", ()))),
            f.documentation,
        )
        for f in _families(view, 0.0)
        if f.name.startswith("codexpool_")
    )
    return joined(
        "# Metrics",
        f"{INTRODUCTION} `http://codex.pool/metrics`, through the proxy, has them in the text format of Prometheus "
        "([how to scrape them](../running.md#metrics)). On Linux it has `process_…` metrics, too.",
        table(("metric", "type", "labels", "meaning"), rows),
    )


def statuses() -> str:
    """Return the statuses of an identity."""
    from codexpool.pool.identity import Status
    from codexpool.pool.needs import NEED
    from codexpool.pool.states import RETURNING

    rows = (
        (
            code(status),
            "yes" if status is Status.READY else "",
            NEED.get(status, ""),
            "yes" if status in RETURNING else "",
        )
        for status in Status
    )
    return joined(
        "# Statuses",
        f"{INTRODUCTION} [Identities](../identities.md) says what to do about each.",
        table(("status", "serves", "what clients and `codexpool list` are told", "ends by itself"), rows),
    )


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "reference/commands.md": commands,
    "reference/options.md": options,
    "reference/metrics.md": metrics,
    "reference/statuses.md": statuses,
}
"""The address of each page, and the function that makes it."""


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def joined(*parts: str) -> str:
    return "\n\n".join(parts) + "\n"
