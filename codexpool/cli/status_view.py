"""Draws the status document of a running proxy on a terminal: tables, bars and notices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from codexpool.cli.output import STATUS_STYLES, UNWRAPPED, needed
from codexpool.pool.identity import Status
from codexpool.views.formatting import clock, counted, local_time, plain_document, size, span

Document = Mapping[str, Any]

TITLES: Final = ("identity", "status", "limits (reset in)", "requests", "sessions", "account", "token")
"""The columns. Requests and refusals are those of the last hour."""

WIDE: Final = 110  # columns of a terminal from which all titles fit
NARROW: Final = 72  # columns below which only the first three fit
CRAMPED: Final = 60  # columns below which there is no room for bars
BAR: Final = 8  # columns of a bar
MANY: Final = 70.0  # percent of a limit from which its use is yellow
TOO_MANY: Final = 90.0  # percent from which it is red
SESSIONS_SHOWN: Final = 3
MEMBERS_SHOWN: Final = 20
PROXIES_SHOWN: Final = 20
HEIGHTS: Final = "▁▂▃▄▅▆▇█"
ASCII_HEIGHTS: Final = ".:-=+*#@"
USUAL_FAMILY: Final = "codex"


class StatusView:
    """What is drawn of one status document on a console."""

    def __init__(self, document: Document, console: Console) -> None:
        self._document = plain_document(document)
        self._console = console
        self._at = float(self._document["at"])

    def drawn(self) -> RenderableType:
        return Group(
            *self._head(), *self._notices(), Text(), *self._identities(), Text(), *self._members(), self._summary()
        )

    def _head(self) -> Iterator[RenderableType]:
        proxy = self._document["proxy"]
        where = ", ".join(proxy["listens"]) or "no address"
        up = span(self._at - proxy["started_at"])
        yield Text(f"codexpool {proxy['version']} at {where}, process {proxy['pid']}, up {up}", "bold")
        yield Text(
            f"{proxy['pool'] or 'no pool.toml'}, mitmproxy {proxy['mitmproxy']}, Python {proxy['python']}", "dim"
        )

    def _notices(self) -> Iterator[RenderableType]:
        proxy, breaker = self._document["proxy"], self._document["breaker"]
        if (installed := proxy.get("installed", proxy["version"])) != proxy["version"]:
            yield Text(f"{proxy['version']} runs, {installed} is installed: restart the proxy", "bold yellow")
        if proxy["closed"]:
            yield Text(f"no requests are served: {proxy['closed']}", "bold red")
        if proxy["observe"]:
            yield Text("observe mode: requests pass unchanged; this shows what codexpool would do", "bold yellow")
        file = self._document.get("pool_file")
        if file and file["missing"]:
            yield Text(f"there is no {file['path']}", "bold yellow")
        if file and file["problem"]:
            used = f"the pool.toml in use was read at {local_time(file['read_at'])}: " if file["read_at"] else ""
            yield Text(f"{used}{file['problem']}", "bold yellow")
        state = self._document.get("state")
        if state and not state["connected"]:
            yield Text(f"the state is lost since {clock(state['since'])}: {_lost(state)}", "bold yellow")
        if breaker["open"]:
            until = f" until {clock(breaker['until'])}" if breaker["until"] is not None else ""
            names = ", ".join(breaker["names"]) or "several identities"
            yield Text(
                f"the breaker is open: sessions are not moved{until}, because these were refused for good: {names}. "
                "To close it now: codexpool breaker --close",
                "bold red",
            )

    def _identities(self) -> Iterator[RenderableType]:
        identities = self._document["identities"]
        if not identities:
            what = "the pool has no identities: no request is served"
            if not self._document["proxy"]["pool"]:
                what = "there is no pool: requests keep the client's own login"
            yield Text(f"{what}. To begin: codexpool add NAME", "yellow")
            return
        if self._is_for_programs:
            yield _tabbed([TITLES, *(map(_on_a_line, self._row(identity)) for identity in identities)])
        elif (table := self._table(identities)) is not None:
            yield table
        else:
            for identity in identities:
                name, status, limits, *_ = self._row(identity)
                yield name
                yield from (Text.assemble("  ", line) for cell in (status, limits) for line in cell.split("\n"))
        for identity in identities:
            for note in _notes(identity, self._at):
                yield Text.assemble((identity["name"], "bold"), ": ", note)

    def _table(self, identities: Sequence[Document]) -> Table | None:
        """Return a table with the titles that fit; None if names are too long for one."""
        width = self._console.width
        for titles in (TITLES if width >= WIDE else (), TITLES[:-2] if width >= NARROW else (), TITLES[:3]):
            if titles and needed(table := self._table_of(titles, identities), self._console).minimum <= width:
                return table
        return None

    def _table_of(self, titles: Sequence[str], identities: Sequence[Document]) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
        rows = [self._row(identity) for identity in identities]
        for title, *cells in zip(titles, *rows, strict=False):
            justify: JustifyMethod = "right" if title in ("requests", "sessions") else "left"
            widest = max(cell_len(line) for cell in cells for line in cell.plain.splitlines() or [""])
            table.add_column(
                title, overflow="fold", justify=justify, min_width=widest if title in TITLES[:3] else None
            )
        for row in rows:
            table.add_row(*row[: len(titles)])
        return table

    def _row(self, identity: Document) -> list[Text]:
        """Return an identity's cells, in the order of `TITLES`."""
        limits = [self._limit(limit) for limit in identity["limits"]] or [Text("not known yet", "dim")]
        requests = Text(f"{identity['requests']:,}")
        if identity["refusals"]:
            requests.append(f"\n{identity['refusals']:,} refused", "yellow")
        return [
            Text(identity["name"], "bold"),
            self._status(identity),
            Text("\n").join(limits),
            requests,
            Text(f"{identity['sessions']:,}"),
            Text(f"{identity.get('email') or identity['account_id'] or ''}\n{identity['plan'] or ''}", "dim"),
            Text(f"{identity['kind']}\n{identity['fingerprint']}", "dim"),
        ]

    def _status(self, identity: Document) -> Text:
        status, until = identity["status"], identity["until"]
        text = Text(status, style_of(status))
        if until is not None and until > self._at:
            text.append(f"\nfor {span(until - self._at)}", "dim")
        return text

    def _limit(self, limit: Document) -> Text:
        length = span(limit["minutes"] * 60) if limit["minutes"] else "limit"
        name = length if limit["family"] in ("", USUAL_FAMILY) else f"{limit['family']} {length}"
        used, resets_at = limit["used_percent"], limit["resets_at"]
        style = "red" if used >= TOO_MANY else "yellow" if used >= MANY else "green"
        filled, empty = "#-" if self._is_ascii else "█░"
        full = round(min(100.0, max(0.0, used)) / 100 * BAR)
        resets = f" ({span(resets_at - self._at)})" if resets_at is not None else ""
        has_room = self._console.width >= CRAMPED and not self._is_for_programs
        bar = (filled * full + empty * (BAR - full) + " ", style) if has_room else ""
        return Text.assemble(f"{name} ", bar, (f"{used:.0f} %", "" if has_room else style), (resets, "dim"))

    def _members(self) -> Iterator[RenderableType]:
        members = self._document.get("members", ())
        if not members:
            return
        yield Text.assemble(
            ("members", "bold"),
            "" if self._document["proxy"].get("access") == "members" else " (and clients without a key)",
            ": ",
            Text(", ").join(map(_member, members[:MEMBERS_SHOWN])),
            "" if len(members) <= MEMBERS_SHOWN else f" and {len(members) - MEMBERS_SHOWN} more",
        )
        yield Text()

    def _summary(self) -> RenderableType:
        facts = list(self._facts())
        if self._is_for_programs:
            return _tabbed((title, _on_a_line(fact)) for title, fact in facts if title)
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for title, fact in facts:
            table.add_row(title, fact)
        return table

    def _facts(self) -> Iterator[tuple[str, Text]]:
        for title, style in (("requests", "cyan"), ("refusals", "yellow"), ("failures", "red")):
            counts = [minute[title] for minute in self._document["hour"]]
            if title == "requests" or any(counts):
                bars = "in the last hour" if self._is_for_programs else self._heights(counts)
                yield title, Text.assemble(f"{sum(counts):>6,} ", (bars, style))
        yield "", Text("       in the last hour, the present minute last", "dim")
        yield "sessions", self._sessions()
        if pins := self._pins():
            yield "pinned", pins
        if proxies := self._proxies():
            yield "proxies", proxies
        yield "in all", Text(self._totals())

    def _sessions(self) -> Text:
        total, newest = self._document["sessions_total"], self._document["sessions"][:SESSIONS_SHOWN]
        lines = [Text(f"{total:,}{', last used:' if newest else ''}")]
        for session in newest:
            facts = [f" with {session['identity']}"]
            facts += [f"moved {counted(session['moves'], 'time')}"] if session["moves"] else []
            facts += [counted(session["requests"], "request"), f"{span(self._at - session['last_at'])} ago"]
            facts += [session["model"]] if session["model"] else []
            lines.append(Text.assemble((short(session["key"]), "bold"), ", ".join(facts)))
        return Text("\n").join(lines)

    def _pins(self) -> Text | None:
        pins = self._document.get("pins", ())
        if not pins:
            return None
        total = self._document["pins_total"]
        lines = [Text(f"{counted(total, 'session')}, last pinned:")]
        for pin in pins[:SESSIONS_SHOWN]:
            ago = span(self._at - pin["at"])
            lines.append(Text.assemble((_short_id(pin["session"]), "bold"), f" to {pin['identity']}, {ago} ago"))
        return Text("\n").join(lines)

    def _proxies(self) -> Text | None:
        """Draw the proxies that share the state; None if this one has it to itself in a file."""
        state, proxies = self._document.get("state"), self._document.get("fleet", ())
        if not state or (len(proxies) < 2 and state["engine"] == "sqlite"):
            return None
        number = sum(proxy["alive"] for proxy in proxies)
        lines = [Text(f"{number:,} {'' if state['connected'] else 'were '}connected to {state['where']}")]
        lines += [_proxy(proxy, self._at) for proxy in proxies[:PROXIES_SHOWN]]
        if len(proxies) > PROXIES_SHOWN:
            lines.append(Text(f"and {len(proxies) - PROXIES_SHOWN} more"))
        return Text("\n").join(lines)

    def _totals(self) -> str:
        totals = self._document["totals"]
        return ", ".join(
            (
                counted(totals["requests"], "request"),
                counted(totals["refusals"], "refusal"),
                counted(totals["failures"], "failure"),
                f"{totals['sent_again']:,} sent again",
                f"{totals['under_way']:,} under way",
                f"{counted(totals['sockets_open'], 'socket')} open",
                f"{size(totals['bytes_out'])} sent",
                f"{size(totals['bytes_in'])} received",
            )
        )

    @property
    def _is_for_programs(self) -> bool:
        """Whether it goes into a pipe or a file, where tabs separate, and a row is a line."""
        return self._console.width >= UNWRAPPED

    @property
    def _is_ascii(self) -> bool:
        return self._console.options.ascii_only

    def _heights(self, counts: Sequence[int]) -> str:
        """Draw a bar for each minute, or for several if the line is too short."""
        room = max(10, self._console.width - 18)
        together = max(1, -(-len(counts) // room))
        sums = [sum(counts[i : i + together]) for i in range(0, len(counts), together)]
        heights, most = ASCII_HEIGHTS if self._is_ascii else HEIGHTS, max(sums, default=0)
        return "".join(heights[min(7, (count * 8 - 1) // most)] if count else " " for count in sums)


def _notes(identity: Document, at: float) -> Iterator[Text]:
    """Yield why an identity does not serve, or soon will not, what to do, and what could be done."""
    if identity["status"] != Status.READY and identity["evidence"]:
        yield Text(identity["evidence"], style_of(identity["status"]))
    if identity["needs"]:
        yield Text(identity["needs"], "bold red")
    for family, until in identity["limited"].items():
        yield Text(f"limited for {family} until {clock(until)}", "yellow")
    for note in (*identity.get("not_for", ()), identity["reminder"]):
        if note:
            yield Text(note, "yellow")
    if lacks := identity.get("lacks"):
        yield Text(f"without {', '.join(lacks)}, which others have", "cyan")
    if (credits := identity.get("reset_credits")) and credits["available"]:
        expires = credits["expires_at"]
        which = "which" if credits["available"] == 1 else "the first"
        until = f", {which} expires in {span(expires - at)}" if expires is not None else ""
        yield Text(f"{counted(credits['available'], 'reset credit')}{until}", "cyan")


def _member(member: Document) -> Text:
    """Return a member's turns, or why its key is not valid."""
    if member["key"] != "valid":
        return Text.assemble((member["name"], "bold"), (f" {member['key']}", "yellow"))
    facts = [f"{member['turns_under_way']} under way"] if member["turns_under_way"] else []
    limit = f" of {member['turns_a_day']}" if member["turns_a_day"] is not None else ""
    facts += [f"{member['turns_today']}{limit} turns today"] if member["turns_today"] or limit else []
    return Text.assemble((member["name"], "bold"), f" {', '.join(facts)}" if facts else "")


def _lost(state: Document) -> str:
    """Say what a lost engine means: nothing that clients notice."""
    kept = f"{counted(state['waiting'], 'row')} to write" if state["waiting"] else "what it learns"
    return f"{state['where']} does not answer. This proxy goes on with what it knows, and keeps {kept}"


def _proxy(proxy: Document, at: float) -> Text:
    facts = ["this one"] if proxy["self"] else []
    facts += [f"codexpool {proxy['version']}", f"process {proxy['pid']}", f"up {span(at - proxy['started_at'])}"]
    facts += [counted(proxy["sessions"], "session")]
    silent = "" if proxy["alive"] else f", no heartbeat for {span(at - proxy['seen_at'])}"
    return Text.assemble((proxy["host"], "bold"), f" {', '.join(facts)}", (silent, "yellow"))


def _tabbed(rows: Iterable[Iterable[str]]) -> RenderableType:
    """Draw rows with tabs, which rich would replace with blanks in a Text."""
    return Segments([Segment("\t".join(row)) for row in rows], new_lines=True)


def _on_a_line(text: Text) -> str:
    return ", ".join(line.strip() for line in text.plain.splitlines()).replace(":, ", ": ")


def short(key: str) -> str:
    return key if len(key) <= 14 else f"{key[:13]}…"


def _short_id(key: str) -> str:
    """Shorten a session of the pool; that of a member begins with the member's name."""
    owner, slash, session = key.rpartition("/")
    return f"{owner}{slash}{short(session)}"


def style_of(status: str) -> str:
    """Return the style of an identity's status, which a newer proxy may have invented."""
    return STATUS_STYLES.get(Status(status), "") if status in set(Status) else ""
