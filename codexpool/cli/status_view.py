"""The status of a running proxy as a person sees it on a terminal: its document in, tables and bars out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.cells import cell_len
from rich.console import Group
from rich.table import Table
from rich.text import Text

from codexpool.cli.output import STATUS_STYLES
from codexpool.pool.identity import Status
from codexpool.views.formatting import clock, plain_document, size, span

if TYPE_CHECKING:
    from rich.console import RenderableType

Document = Mapping[str, Any]

ALL_COLUMNS: Final = (
    *("identity", "status", "window", "used", "anew in", "requests", "sessions"),
    *("account", "token"),
)
"""What a row shows of an identity. (Requests and refusals are of the last hour.)"""

FEWER_COLUMNS: Final = ALL_COLUMNS[:-2]
FEWEST_COLUMNS: Final = ALL_COLUMNS[:-3]
"""The same where there is less room."""

COUNTS: Final = ("requests", "sessions")

UNKNOWN: Final = (Text("?", "dim"), Text("not known yet", "dim"), Text())
"""In place of the windows of an identity that has not been told any."""

MANY: Final = 70.0
"""Percent of a window from which on its use is shown in yellow."""

TOO_MANY: Final = 90.0
"""Percent from which on it is shown in red."""

SESSIONS_SHOWN: Final = 3

MEMBERS_SHOWN: Final = 20

EIGHTHS: Final = " ▏▎▍▌▋▊▉█"
HEIGHTS: Final = "▁▂▃▄▅▆▇█"
ASCII_HEIGHTS: Final = ".:-=+*#@"

USUAL_FAMILY: Final = "codex"


class Picture:
    """What is drawn of a status document, for so many columns; ``ascii_only``: without blocks."""

    def __init__(self, document: Document, width: int, ascii_only: bool = False) -> None:
        self._document = plain_document(document)
        self._width = width
        self._ascii = ascii_only

    def parts(self) -> list[RenderableType]:
        """From top to bottom."""
        return [
            *self._head(),
            *self._notices(),
            Text(),
            *self._identities(),
            Text(),
            *self._members(),
            self._below(),
        ]

    def whole(self) -> RenderableType:
        """All of it."""
        return Group(*self.parts())

    # -- parts

    @property
    def _at(self) -> float:
        return float(self._document["at"])

    def _head(self) -> Iterator[RenderableType]:
        proxy = self._document["proxy"]
        where = ", ".join(proxy["listens"]) or "no address"
        up = span(self._at - proxy["started_at"])
        yield Text(f"codexpool {proxy['version']} at {where}, process {proxy['pid']}, up {up}", "bold")
        yield Text(
            f"{proxy['pool'] or 'no pool.toml'}, mitmproxy {proxy['mitmproxy']}, Python {proxy['python']}", "dim"
        )

    def _notices(self) -> Iterator[RenderableType]:
        """What a person is to see first, if there is any of it."""
        proxy, breaker = self._document["proxy"], self._document["breaker"]
        if proxy["closed"]:
            yield Text(f"nothing is served: {proxy['closed']}", "bold red")
        if proxy["observe"]:
            yield Text("observe mode: nothing is changed, it is only said what would be done", "bold yellow")
        if breaker["open"]:
            until = f" until {clock(breaker['until'])} UTC" if breaker["until"] is not None else ""
            names = ", ".join(breaker["names"]) or "several identities"
            yield Text(
                f"the breaker is open: sessions are not moved{until}, because these were refused for good: {names}. "
                "To end it now: codexpool breaker --close",
                "bold red",
            )

    def _identities(self) -> Iterator[RenderableType]:
        identities = self._document["identities"]
        if not identities:
            there_is = "the pool has no identity" if self._document["proxy"]["pool"] else "there is no pool"
            yield Text(
                f"{there_is}: nothing is sent under another identity. Begin with: codexpool add NAME", "yellow"
            )
            return
        for columns, bar in ((ALL_COLUMNS, 24), (FEWER_COLUMNS, 16), (FEWER_COLUMNS, 8), (FEWEST_COLUMNS, 8)):
            rows = [self._row(identity, bar) for identity in identities]
            if _columns_of(columns, rows) <= self._width:
                yield _table(columns, rows)
                for identity in identities:
                    for words in self._words(identity):
                        yield Text.assemble((identity["name"], "bold"), ": ", words)
                return
        for identity in identities:
            yield from self._card(identity)
            for words in self._words(identity):
                yield Text.assemble("  ", words)

    def _members(self) -> Iterator[RenderableType]:
        """Who uses it now, of those who may; nothing where there are no members."""
        members = self._document.get("members", ())
        if not members:
            return
        yield Text.assemble(
            ("members", "bold"),
            "" if self._document["proxy"].get("access") == "members" else " (and whoever has no key)",
            ": ",
            Text(", ").join(map(_member, members[:MEMBERS_SHOWN])),
            "" if len(members) <= MEMBERS_SHOWN else f" and {len(members) - MEMBERS_SHOWN} more",
        )
        yield Text()

    def _row(self, identity: Document, bar: int) -> list[Text]:
        """The cells of an identity, in the order of `ALL_COLUMNS`; a line in three of them is a window."""
        windows = [self._window(limit, bar) for limit in identity["limits"]]
        window, used, anew = (Text("\n").join(lines) for lines in zip(*windows, strict=True)) if windows else UNKNOWN
        done = Text(f"{identity['requests']:,}")
        if identity["refusals"]:
            done.append(f"\n{identity['refusals']:,} refused", "yellow")
        return [
            Text(identity["name"], "bold"),
            self._status(identity, "\n"),
            window,
            used,
            anew,
            done,
            Text(f"{identity['sessions']:,}"),
            Text(f"{identity['account_id'] or ''}\n{identity['plan'] or ''}", "dim"),
            Text(f"{identity['kind']}\n{identity['fingerprint']}", "dim"),
        ]

    def _card(self, identity: Document) -> Iterator[Text]:
        """The same where a row has no room."""
        yield Text.assemble((identity["name"], "bold"), "  ", self._status(identity, " "))
        for limit in identity["limits"]:
            window, used, anew = self._window(limit, 8)
            yield Text.assemble(f"  {window} ", used, *((", anew in ", anew) if anew.plain else ()))
        refused = f", {identity['refusals']:,} refused" if identity["refusals"] else ""
        done, sessions = _counted(identity["requests"], "request"), _counted(identity["sessions"], "session")
        yield Text(f"  {done}{refused}, {sessions}", "dim")

    def _status(self, identity: Document, between: str) -> Text:
        status, until = identity["status"], identity["until"]
        text = Text(status, style_of(status))
        if until is not None and until > self._at:
            text.append(f"{between}for {span(until - self._at)}", "dim")
        return text

    def _window(self, limit: Document, bar: int) -> tuple[Text, Text, Text]:
        """What a window is called, how much of it is used, and when it begins anew."""
        length = span(limit["minutes"] * 60) if limit["minutes"] else "limit"
        is_usual = limit["family"] in ("", USUAL_FAMILY)
        used, resets_at = limit["used_percent"], limit["resets_at"]
        style = "red" if used >= TOO_MANY else "yellow" if used >= MANY else "green"
        return (
            Text(length if is_usual else f"{limit['family']} {length}"),
            Text.assemble((self._bar(used, bar), style), f" {used:3.0f} %"),
            Text(span(resets_at - self._at) if resets_at is not None else "", "dim"),
        )

    def _words(self, identity: Document) -> Iterator[Text]:
        """What is to be said of an identity besides its numbers."""
        if identity["status"] != Status.READY and identity["evidence"]:
            yield Text(identity["evidence"], style_of(identity["status"]))
        if identity["needs"]:
            yield Text(identity["needs"], "bold red")
        for family, until in identity["limited"].items():
            yield Text(f"limited for {family} until {clock(until)} UTC", "yellow")
        for words in identity.get("not_for", ()):
            yield Text(words, "yellow")
        if identity["reminder"]:
            yield Text(identity["reminder"], "yellow")

    def _below(self) -> RenderableType:
        """The last hour, the sessions, and what there was since the start."""
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for title, style in (("requests", "cyan"), ("refusals", "yellow"), ("failures", "red")):
            counts = [minute[title] for minute in self._document["hour"]]
            if title == "requests" or any(counts):
                table.add_row(title, Text.assemble(f"{sum(counts):>6,} ", (self._line(counts), style)))
        table.add_row("", Text("       in the last hour, the present minute last", "dim"))
        table.add_row("sessions", self._sessions())
        table.add_row("in all", Text(self._totals()))
        return table

    def _sessions(self) -> Text:
        total, newest = self._document["sessions_total"], self._document["sessions"][:SESSIONS_SHOWN]
        lines = [Text(f"{total:,}{', last used:' if newest else ''}")]
        for session in newest:
            words = [f" with {session['identity']}"]
            words += [f"moved {_counted(session['moves'], 'time')}"] if session["moves"] else []
            words.append(_counted(session["requests"], "request"))
            words.append(f"{span(self._at - session['last_at'])} ago")
            words += [session["model"]] if session["model"] else []
            lines.append(Text.assemble((short(session["key"]), "bold"), ", ".join(words)))
        return Text("\n").join(lines)

    def _totals(self) -> str:
        totals = self._document["totals"]
        words = [
            _counted(totals["requests"], "request"),
            _counted(totals["refusals"], "refusal"),
            _counted(totals["failures"], "failure"),
            f"{totals['sent_again']:,} sent again",
            f"{totals['under_way']:,} under way",
            f"{_counted(totals['sockets_open'], 'socket')} open",
            f"{size(totals['bytes_out'])} asked",
            f"{size(totals['bytes_in'])} answered",
        ]
        return ", ".join(words)

    # -- drawing

    def _bar(self, percent: float, columns: int) -> str:
        """So many percent, as a bar."""
        eighths = round(min(100.0, max(0.0, percent)) / 100 * columns * 8)
        full, rest = divmod(eighths, 8)
        if self._ascii:
            return ("#" * (full + (rest > 3))).ljust(columns, "-")
        return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(columns, "░")

    def _line(self, counts: Sequence[int]) -> str:
        """Counts by the minute as a line of bars; where there is little room, two minutes or more make one."""
        room = max(10, self._width - 18)
        together = max(1, -(-len(counts) // room))
        sums = [sum(counts[i : i + together]) for i in range(0, len(counts), together)]
        heights, most = ASCII_HEIGHTS if self._ascii else HEIGHTS, max(sums, default=0)
        return "".join(heights[min(7, (count * 8 - 1) // most)] if count else " " for count in sums)


def _columns_of(titles: Sequence[str], rows: Sequence[Sequence[Text]]) -> int:
    """How wide a table is that has these first cells of the rows."""
    widths = (max(cell_len(title), *(_width_of(row[i]) for row in rows)) for i, title in enumerate(titles))
    return sum(widths) + 2 * (len(titles) - 1)


def _width_of(cell: Text) -> int:
    return max((cell_len(line) for line in cell.plain.split("\n")), default=0)


def _table(titles: Sequence[str], rows: Sequence[Sequence[Text]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title in titles:
        table.add_column(title, no_wrap=True, justify="right" if title in COUNTS else "left")
    for row in rows:
        table.add_row(*row[: len(titles)])
    return table


def short(key: str) -> str:
    """The beginning of a session's key, enough to know it by."""
    return key if len(key) <= 14 else f"{key[:13]}…"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def style_of(status: str) -> str:
    """How the status of an identity looks."""
    try:
        return STATUS_STYLES[Status(status)]
    except ValueError:
        return ""


def _member(member: Document) -> Text:
    """What a member does, or why not."""
    if member["key"] != "valid":
        return Text.assemble((member["name"], "bold"), (f" {member['key']}", "yellow"))
    words = [f"{member['turns_under_way']} under way"] if member["turns_under_way"] else []
    bound = f" of {member['turns_a_day']}" if member["turns_a_day"] is not None else ""
    words += [f"{member['turns_today']}{bound} turns today"] if member["turns_today"] or bound else []
    return Text.assemble((member["name"], "bold"), f" {', '.join(words)}" if words else "")
