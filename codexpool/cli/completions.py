"""What completion offers: names of identities and members, and requests and sessions of the running proxy.

A person is typing meanwhile: it is found within `SECONDS`, or not offered, and nothing but words is ever printed.
"""

from __future__ import annotations

import os
import re
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from codexpool.cli.entry import entry

Items = Iterable[tuple[str, str]]
"""Words, each with what it is."""

F = TypeVar("F", bound=Callable[..., Any])
Completer = Callable[[click.Context, click.Parameter, str], list["CompletionItem[str]"]]

SECONDS = 0.7  # for reading pool.toml, and for the answer of the proxy
MOST: Final = 200  # words that are offered
LARGEST: Final = 1 << 20  # bytes that are read of pool.toml
SHOWN_OF_ID: Final = 8  # characters of a flow's id that are offered, and that `codexpool tail` prints

_SAFE: Final = re.compile(r"[\w.+@%-]{1,64}", re.ASCII)  # Nothing that a shell would take for more than a word.


def completer(find: Callable[[click.Context], Items]) -> Completer:
    """Make the ``shell_complete`` of a parameter from a function, which may take its time and fail."""

    def complete(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
        given = [value for value in context.params.values() if isinstance(value, tuple)]
        used = {word for words in given for word in words}  # of an argument that takes several
        return [
            CompletionItem(word, help=about or None)
            for word, about in _in_time(lambda: find(context))
            if word not in used and word.startswith(incomplete) and _SAFE.fullmatch(word)
        ]

    return complete


def _in_time(find: Callable[[], Items]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    def work() -> None:
        try:
            for word, about in islice(find(), MOST):
                found.append((str(word), about))
        except Exception:  # A traceback would end up in the line that the person types.
            return

    thread = threading.Thread(target=work, daemon=True)  # The process does not wait for it.
    thread.start()
    thread.join(SECONDS)
    return list(found)


def _names(context: click.Context, table: str) -> Iterator[tuple[str, str]]:
    """Yield the names in the tables of pool.toml, which need not be valid otherwise."""
    from codexpool.config.files import places

    named = context.params.get("pool") or context.params.get("named")  # --config
    path = places(str(named) if named else None, os.environ, entry()).find()
    if path is None:
        return
    with path.open("rb") as file:
        text = file.read(LARGEST).decode("utf-8-sig")
    for one in tomllib.loads(text).get(table, []):
        yield one["name"], "paused" if one.get("paused") else ""


def _flows(context: click.Context) -> Iterator[tuple[str, str]]:
    flows = _answer(context, "/api/flows?limit=50")["flows"]
    if flows:
        yield "last", "the last one that has ended"
    for flow in flows:
        yield (
            flow["id"][:SHOWN_OF_ID],
            f"{flow['method']} {flow['path'][:40]} {flow['answer']['status'] or ''}".rstrip(),
        )


def _sessions(context: click.Context) -> Iterator[tuple[str, str]]:
    for session in _answer(context, "/api/status")["sessions"]:
        owner, _, key = session["key"].rpartition("/")
        yield key, " ".join(word for word in (owner, session["identity"], session["model"]) if word)


def _answer(context: click.Context, path: str) -> dict[str, Any]:
    from codexpool.cli import running_proxy

    proxy, _ = running_proxy.running(context.params.get("proxy_url"))
    return proxy.get(path, SECONDS)


identities: Final = completer(lambda context: _names(context, "identity"))
members: Final = completer(lambda context: _names(context, "member"))
sessions: Final = completer(_sessions)
_known_flows: Final = completer(_flows)


def files(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Have the shell offer files, as it does for other programs."""
    return [CompletionItem(incomplete, type="file")]


def flows(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Offer requests of the running proxy, or else files."""
    return _known_flows(context, parameter, incomplete) or files(context, parameter, incomplete)


def flows_or_identities(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    return (identities if context.params.get("identities") else flows)(context, parameter, incomplete)


def identity_argument(command: F) -> F:
    """Add ``NAME``, of an identity."""
    return click.argument("name", metavar="NAME", shell_complete=identities)(command)


def identities_argument(command: F) -> F:
    """Add ``NAME...``, of one or several identities, each once."""

    def once(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    return click.argument(
        "names", metavar="NAME...", nargs=-1, required=True, callback=once, shell_complete=identities
    )(command)


def member_argument(command: F) -> F:
    """Add ``NAME``, of a member."""
    return click.argument("name", metavar="NAME", shell_complete=members)(command)
