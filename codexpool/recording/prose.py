"""Puts stand-ins into any text, whatever it is: what is known from elsewhere, and what looks like something private.

What a credential or an e-mail address looks like is known to `codexpool.redaction.find`, which also keeps them off
tables and pages. What is added here are ids, home folders and the placeholders of the pool, which may be seen there.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from codexpool.recording import patterns, shapes, tokens
from codexpool.recording.base64s import decoded, encoded_like, json_text
from codexpool.recording.kinds import Kind, folded, kind_of
from codexpool.recording.standins import StandIns
from codexpool.recording.words import any_of
from codexpool.redaction.find import Found, found

NOBODY: Final = frozenset({"waiting", "refused", "removed"})
"""What a placeholder says where no identity is meant."""

BY_NAME: Final = frozenset({Kind.ACCOUNT, Kind.USER, Kind.DEVICE, Kind.ID})
"""What is told by a name before it in any text, if the name is of several words."""

_DEPTH: Final = 3
"""How deep one encoding within another is looked into."""

_KEPT: Final = 8_000_000
"""Characters of texts of which is remembered what became of them: a client sends the conversation again each time."""

Span = tuple[int, int, str]
"""Begin, end, and what goes there."""

_KNOWN, _HOME, _OTHER = range(3)


class _Candidate(NamedTuple):
    """What may have to be replaced. ``made`` is what goes there; empty for a ``secret`` that is to be learned."""

    begin: int
    end: int
    rank: int
    made: str
    secret: Found | None = None


class Prose:
    """Texts with stand-ins in them. ``is_own`` while a text of codexpool's own is gone through."""

    def __init__(self, standins: StandIns) -> None:
        self.standins = standins
        self.is_own = False
        self.inner: Callable[[str, int], str] = self.plain
        """What a text in base64 goes through: it may be JSON."""
        self.claim: tokens.Claim = lambda _name, value, _within: value
        self._done: dict[tuple[str, bool], str] = {}
        self._done_for = (True, 0, 0)
        self._done_size = 0
        self._names: tuple[list[str], re.Pattern[str]] = ([], re.compile(r"(?!)"))

    def plain(self, text: str, depth: int = 0) -> str:
        """Any text. What is a stand-in already stays as it is."""
        if not text or depth > _DEPTH:
            return text
        standins = self.standins
        state = (standins.learning, standins.epoch, 0 if standins.learning else standins.generation)
        if state != self._done_for:
            self._done_for = state
            self._done.clear()
            self._done_size = 0
        key = (text, self.is_own)
        if (made := self._done.get(key)) is None:
            made = self._plain(text, depth)
            self._done_size += len(text)
            if self._done_size > _KEPT:
                self._done.clear()
                self._done_size = len(text)
            self._done[key] = made
        return made

    def _plain(self, text: str, depth: int) -> str:
        was_own, self.is_own = self.is_own, self.is_own or "codexpool:" in text
        try:
            return _joined(text, self._standins(text), lambda piece: self._fresh(piece, depth))
        finally:
            self.is_own = was_own

    def literally(self, text: str) -> str:
        """A text in which only what is known is replaced."""
        spans = ((literal.begin, literal.end, literal.made) for literal in self.standins.literals(text))
        return _joined(text, spans, lambda piece: piece)

    def addresses(self, text: str) -> str:
        """A text in which numbers with dots are addresses, and not versions."""
        return patterns.IPV4.sub(lambda match: self.address(match[0]), text)

    def address(self, address: str) -> str:
        """An IP address; one of this machine says nothing."""
        if shapes.is_standin(address):
            self.standins.leave(address)
            return address
        return address if shapes.is_of_this_machine(address) else self.standins.of(Kind.ADDRESS, address)

    def is_covered(self, value: str) -> bool:
        """Whether a value is made of several ids known by their looks, and nothing but what is between them."""
        if (whole := patterns.IDS.fullmatch(value)) is not None and (whole["uuid"] or whole["owned"]):
            return False
        fresh = _joined(value, ((begin, end, "") for begin, end, _ in self._standins(value)), lambda piece: piece)
        rest = patterns.IDS.sub(lambda match: "" if match["uuid"] or match["owned"] else match[0], fresh)
        return sum(c.isalnum() for c in rest) < 4

    # -- stand-ins that are there already

    def _standins(self, text: str) -> Iterator[Span]:
        for match in patterns.STANDIN.finditer(text):
            standin = match[0]
            if match["jwt"] and not tokens.is_standin(standin, self.claim):
                continue
            if match["basic"] and shapes.basic_number(standin) is None:
                continue
            if name := match["identity"]:
                yield (
                    *match.span(),
                    f"<codexpool:{name if name in NOBODY else self.standins.of(Kind.IDENTITY, name)}>",
                )
                continue
            self.standins.leave(standin)
            yield *match.span(), standin

    # -- everything else

    def _fresh(self, text: str, depth: int) -> str:
        text = patterns.DATA.sub(self._data, text) if ";base64," in text else text
        return _joined(text, self._encoded(text, depth), lambda piece: self._known(piece, depth))

    def _data(self, match: re.Match[str]) -> str:
        """A picture or a file within a text. Nobody can tell what it shows."""
        if match[0].startswith("c3RhbmRpbi"):
            return match[0]
        return base64.b64encode(self.standins.of(Kind.ENCRYPTED, match[0]).encode()).decode()

    def _encoded(self, text: str, depth: int) -> Iterator[Span]:
        """JSON Web Tokens, and what is in base64 if there is something inside that is known, or has a name."""
        jwts = list(tokens.JWT.finditer(text)) if "eyJ" in text else []
        for run in patterns.RUN.finditer(text):
            while jwts and jwts[0].end() <= run.start():
                jwt = jwts.pop(0)
                yield *jwt.span(), self.standins.of(Kind.CREDENTIAL, jwt[0])
            if jwts and jwts[0].start() < run.end():
                continue
            if patterns.LOWER.fullmatch(run[0]) or text[: run.start()][-6:].lower() == "basic ":
                continue
            made = self._in_base64(run[0], depth)
            if made is not None:
                yield *run.span(), made
        for jwt in jwts:
            yield *jwt.span(), self.standins.of(Kind.CREDENTIAL, jwt[0])

    def _in_base64(self, run: str, depth: int) -> str | None:
        body = run.rstrip("=")
        for shift in range(4):
            whole = body[shift : shift + (len(body) - shift) // 4 * 4] if shift else body
            inner = decoded(whole)
            if inner is None:
                continue
            if shift == 0 and (document := json_text(inner)):
                made = self.inner(document, depth + 1).encode().decode("latin-1")
                if made == inner:
                    return run
            else:
                made = self.literally(inner)
                if made == inner:
                    continue
            padded = run.endswith("=") or (shift == 0 and len(run) % 4 == 0)
            return body[:shift] + encoded_like(run, made, padded) + (body[shift + len(whole) :] if shift else "")
        return None

    def _known(self, text: str, depth: int) -> str:
        return _joined(text, self._spans(text, depth), self._named)

    def _spans(self, text: str, depth: int) -> Iterator[Span]:
        """What is known, what looks like a secret, and names in paths; where these overlap, what begins first.

        Where two begin, a known credential tells best where it ends, and a path where a name in it does; of the
        others the longer one counts.
        """
        done, is_home = 0, False
        for one in sorted(self._candidates(text), key=lambda one: (one.begin, one.rank, -one.end)):
            if one.begin >= done:
                yield one.begin, one.end, one.made or self._secret(text, one)
                done, is_home = one.end, one.rank == _HOME
            elif one.end > done and not one.made:  # The rest of a secret is one, too.
                rest = text[done : one.end]
                made = self._known(rest, depth + 1) if is_home else self.standins.of(Kind.CREDENTIAL, rest)
                yield done, one.end, made
                done = one.end

    def _candidates(self, text: str) -> Iterator[_Candidate]:
        for literal in self.standins.literals(text):
            yield _Candidate(
                literal.begin, literal.end, _KNOWN if literal.kind is Kind.CREDENTIAL else _OTHER, literal.made
            )
        for match in patterns.IDS.finditer(text):
            if (group := match.lastgroup or "") in patterns.HOMES and match[group].lower() not in patterns.HOMELESS:
                yield _Candidate(*match.span(group), _HOME, self.standins.of(Kind.HOME, match[group]))
        for secret in found(text):
            if not shapes.is_standin(secret.text) and not (self.is_own and _is_digest(text, secret)):
                yield _Candidate(secret.begin, secret.end, _OTHER, "", secret)

    def _secret(self, text: str, one: _Candidate) -> str:
        assert one.secret is not None
        value = one.secret.text
        if one.secret.is_email:
            return self.standins.of(Kind.EMAIL, value)
        user, colon, password = value.partition(":")
        if colon and text[: one.begin].endswith("://"):
            self.standins.of(Kind.USER, user)
            self.standins.of(Kind.CREDENTIAL, password)
        return self.standins.of(Kind.CREDENTIAL, value, text[one.begin : one.end])

    def _named(self, text: str) -> str:
        return _joined(text, self._pairs(text), self._ids)

    def _pairs(self, text: str) -> Iterator[Span]:
        for match in patterns.NAMED.finditer(text):
            value = match["value"].rstrip(".")
            if "_" not in folded(match["name"]) or not value or self.is_covered(value):
                continue
            kind = kind_of(match["name"], value)
            if kind in BY_NAME:
                begin = match.start("value")
                yield begin, begin + len(value), self.standins.of(kind, value)

    def _ids(self, text: str) -> str:
        return _joined(text, self._seen(text), self._words)

    def _seen(self, text: str) -> Iterator[Span]:
        for match in patterns.IDS.finditer(text):
            group = match.lastgroup or ""
            if group == "claimed":
                if self.is_own:
                    kind = Kind.ACCOUNT if match["claim"] == "account" else Kind.USER
                    yield *match.span(group), self.standins.of(kind, match[group])
                continue
            if group not in patterns.HOMES:
                yield *match.span(group), self.standins.of(Kind.ID, match[group])

    def _words(self, text: str) -> str:
        """The names of identities, where it is codexpool that speaks."""
        if not self.is_own:
            return text
        if self._names[0] != (names := self.standins.names()):
            self._names = (names, re.compile(rf"(?<![\w.-]){any_of(names)}(?![\w-]|\.\w)"))
        return self._names[1].sub(lambda match: self.standins.of(Kind.IDENTITY, match[0]), text)


def _joined(text: str, spans: Iterator[Span], between: Callable[[str], str]) -> str:
    """The text with its spans replaced, and what is between them as ``between`` makes it."""
    pieces: list[str] = []
    at = 0
    for begin, end, made in spans:
        if begin >= at:
            pieces += (between(text[at:begin]), made)
            at = end
    if not at:
        return between(text)
    pieces.append(between(text[at:]))
    return "".join(pieces)


def _is_digest(text: str, secret: Found) -> bool:
    return (
        text[: secret.begin].endswith(("sha256:", "<email ")) and patterns.DIGEST.fullmatch(secret.text) is not None
    )
