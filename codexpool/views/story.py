"""Explains what happened to a request and why: the document of its trace in, lines of text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

from codexpool.views.formatting import clock, plain, size, took

Document = Mapping[str, Any]


class Role(StrEnum):
    """The purpose of a line, which decides its color."""

    HEADING = "heading"
    FACT = "fact"
    GOOD = "good"
    BAD = "bad"
    DIM = "dim"


class Line(NamedTuple):
    """One line. A line that begins with two blanks belongs to the one before."""

    text: str
    role: Role = Role.FACT


SAYS: Final = {
    "1": "a good answer; the client gets it.",
    "2": "a token was refused that is not the identity's any more; the request goes out again with its present one.",
    "3": "this is the content network in front of the backend, and no word on any token; the client gets it, and "
    "requests for that host leave later.",
    "3a": "a 401 from the content network is no word on any token, and a client that saw it would renew a login of "
    "its own; the request goes out under the next identity.",
    "3b": "this is about the address that the proxy asks from, the same under every identity; the client gets it.",
    "4": "this endpoint does not take this token, which may be good for all others; that is remembered for the two, "
    "and the request goes out under the next identity.",
    "4a": "the account does not have the model that is asked; that is remembered for the two for an hour, and the "
    "request goes out under the next identity.",
    "4b": "a 403 that does not say why; another identity is tried once. The third in a row has the identity rest.",
    "5": "the workspace is not served any more, whatever the token; the identity is paused until a person says "
    "otherwise, and the request goes out under the next one.",
    "5a": "several identities were turned away for the same, so it is about the request; the others are tried, and "
    "the client gets it if all say so. No identity suffers.",
    "5b": "an endpoint beside the model turns the identity away; that counts for this endpoint alone, and the "
    "request goes out under the next identity.",
    "6": "the backend refuses the access token of a login; it is renewed, and the request goes out again with the "
    "new one, else under the next identity.",
    "7": "the backend refuses a PAT, which nobody but a person can renew; the request goes out under the next "
    "identity, and whoami is asked meanwhile whether the token is dead.",
    "8": "the backend refuses a token that a command has printed; the command is run again, and the request goes out "
    "with what it prints, else under the next identity.",
    "10": "the account has used up a limit; it rests until that begins anew, and the request goes out under the next "
    "identity.",
    "11": "the account is to slow down; it rests for a moment, and the request goes out under the next identity.",
    "12": "the request has encrypted reasoning that another account has issued; it goes out once more without it, "
    "under the same identity.",
    "13": "trouble of the backend's own, or on the way to it, and a request that can be made twice; it goes out once "
    "more under the same identity.",
    "13a": "the model is at capacity for everybody; the client gets it at once, and no identity suffers.",
    "13b": "trouble of the backend's own, or on the way to it, and a request that may have begun to act; the client "
    "gets it, because nobody can tell whether it may be made twice.",
    "14": "this is about the request itself, whoever sends it; the client gets it.",
}
"""What each row of the table of verdicts (`codexpool.pool.verdict`) means, by its number."""

KINDS: Final = {"pat": "PAT", "oauth": "OAuth login", "command": "command token"}
"""The names of the kinds of credentials."""

SWITCHED: Final = 101

LOST: Final = "the connection was lost before an answer began"


def explained(document: Document) -> list[Line]:
    """Return the story of a request: its outcome, what was asked, which identities were tried and why, and the time.

    ``document`` is that of a trace (``flow.metadata["codexpool"]``). No line has a control character.
    """
    return [Line(plain(text), role) for text, role in _lines(document)]


def _lines(document: Document) -> Iterator[Line]:
    yield Line(f"{document['method']} {document['url']}", Role.HEADING)
    yield _outcome(document)
    if message := document["answer"]["message"]:
        was_told = "would have been told" if document["observed"] else "was told"
        yield Line(f"  the client {was_told}: {message}", Role.BAD)
    yield Line(_circumstances(document), Role.DIM)
    yield Line("What was asked", Role.HEADING)
    yield from _asked(document)
    yield Line("Who was tried", Role.HEADING)
    yield from _tried(document)
    if document["turns"]:
        yield Line("What was asked on the socket", Role.HEADING)
        yield from _turns(document)
    yield Line("Where the time went", Role.HEADING)
    yield from _time(document)


def _outcome(document: Document) -> Line:
    """Return in one line which identity served."""
    answer, attempts, is_over = document["answer"], document["attempts"], document["ended_at"] is not None
    status = answer["status"]
    if answer["error"]:
        return Line(f"it ended in an error: {answer['error']}", Role.BAD)
    if status is None:
        return Line("it ended without an answer", Role.BAD) if is_over else Line("it is still under way")
    if answer["by"] == "codexpool":
        return Line(f"nobody served it: codexpool has answered {status} in the backend's place", Role.BAD)
    if answer["by"] not in ("backend", None):
        return Line(f"{answer['by']} has answered {status} in the backend's place")
    number = f", attempt {len(attempts)}" if len(attempts) > 1 else ""
    if not attempts or document["observed"]:
        words = _untouched(document, status)
    elif status == SWITCHED:
        words = f"{attempts[-1]['identity']} has opened the socket{number}: {status}"
    elif _is_bad(status):
        words = f"the client got the backend's answer to {attempts[-1]['identity']}{number}: {status}"
    else:
        words = f"{attempts[-1]['identity']} served it{number}: {status}"
    if not is_over:
        words += ", and it is open" if status == SWITCHED else ", and it is still under way"
    return Line(words, Role.BAD if _is_bad(status) else Role.GOOD)


def _untouched(document: Document, status: int) -> str:
    """Return the outcome of a request that went out as the client sent it."""
    if document["policy"]["name"] == "never":
        return f"{document['host']} answered {status}; nothing was changed"
    return f"the backend answered {status} to the client's own credential"


def _circumstances(document: Document) -> str:
    """Return when the request came, from where, and its size."""
    answer, agent = document["answer"], document["session"]["user_agent"]
    words = [f"{clock(document['at'], day=True)} UTC"]
    words += [f"from {document['client']}"] if document["client"] else []
    words += [f"with the key of {member}"] if (member := document.get("member")) else []
    words += [agent] if agent else []
    words.append("over a WebSocket" if document["transport"] == "websocket" else "over HTTP")
    words.append(f"{size(document['request_bytes'])} asked, {size(answer['bytes'])} answered")
    return ", ".join(words)


def _asked(document: Document) -> Iterator[Line]:
    policy, session = document["policy"], document["session"]
    if document["observed"]:
        yield Line("observe mode: nothing was changed; what follows is what would have been done")
    row = f" (row {policy['row']})" if policy["row"] else " (no row names it)"
    yield Line(f"policy: {policy['name']}{row}: {policy['means']}")
    if session["key"] is None:
        yield Line("session: it names none")
    else:
        source = f", read from {session['from']}" if session["from"] else ""
        yield Line(f"session: {session['key']}{source}")
    if session["parent"] is not None:
        yield Line(f"  it was started by session {session['parent']}")
    if session["model"]:
        yield Line(f"model: {session['model']}")


def _tried(document: Document) -> Iterator[Line]:
    attempts, observed = document["attempts"], document["observed"]
    if not attempts and _is_swapped(document):
        yield Line("nobody", Role.FACT if document["answer"]["status"] is None else Role.BAD)
    elif not attempts:
        yield Line("nobody: it keeps the credential that the client has sent")
    for attempt in attempts:
        yield from _attempt(attempt, observed, document["ended_at"] is not None)
    for wait in document["waits"]:
        yield Line(f"it was kept waiting for {took(wait['milliseconds'])}: {wait['for']}")


def _attempt(attempt: Document, observed: bool, is_over: bool) -> Iterator[Line]:
    chosen = "would have been chosen" if observed else "was chosen"
    because = attempt["because"]
    if because.startswith("a "):
        because = f"this is {because}"
    yield Line(f"{attempt['identity']} {chosen} because {because}")
    yield from _candidates(attempt["candidates"])
    yield from _sent(attempt, observed, is_over)
    verdict = attempt["verdict"]
    if verdict is not None and (says := SAYS.get(verdict["row"])) is not None:
        yield Line(f"  row {verdict['row']} says: {says}", Role.DIM)
    if attempt["request_id"]:
        yield Line(f"  the backend calls it {attempt['request_id']}", Role.DIM)


def _candidates(candidates: list[Document] | None) -> Iterator[Line]:
    if candidates is None:
        yield Line("  nobody else was looked at", Role.DIM)
        return
    for candidate in candidates:
        speaks = [f"for it: {', '.join(candidate['for'])}"] if candidate["for"] else []
        speaks += [f"against it: {', '.join(candidate['against'])}"] if candidate["against"] else []
        sign = "*" if candidate["chosen"] else "-"
        yield Line(
            f"  {sign} {candidate['name']}: {'; '.join(speaks) or 'nothing spoke for or against it'}", Role.DIM
        )


def _sent(attempt: Document, observed: bool, is_over: bool) -> Iterator[Line]:
    """Yield the attempt itself: its identity, its outcome, and the verdict."""
    status, verdict = attempt["status"], attempt["verdict"]
    kind = KINDS.get(attempt["kind"], attempt["kind"])
    print_ = f" sha256:{attempt['fingerprint']}" if attempt["fingerprint"] else ""
    words = f"attempt {attempt['number']}, {attempt['identity']} ({kind}{print_})"
    if attempt["lighter"]:
        words += ", without its encrypted reasoning"
    if observed:
        words += ": would have been sent"
    elif attempt["sent_at"] is None and status is None:
        yield Line(f"{words}: was not sent")
        return
    if status is None and observed:
        yield Line(words)
        return
    if status is None:
        yield Line(f"{words}: no answer came" if is_over else f"{words}: sent, and no answer yet")
        return
    words += "; the client's own credential got: " if observed else ": "
    words += str(attempt["evidence"] or status or LOST)
    if attempt["milliseconds"] is not None:
        words += f", after {took(attempt['milliseconds'])}"
    if verdict is not None:
        words += f" → row {verdict['row']}, {verdict['finding']}: {verdict['next']}"
    yield Line(words, Role.BAD if _is_bad(status) else Role.GOOD)


def _turns(document: Document) -> Iterator[Line]:
    for turn in document["turns"]:
        outcome, milliseconds = turn["outcome"], turn["milliseconds"]
        words = f"{clock(turn['at'])} UTC: {outcome or 'under way'}"
        if milliseconds is not None:
            words += f", after {took(milliseconds)}, {size(turn['bytes'])}"
        role = Role.GOOD if outcome == "completed" else Role.BAD if outcome.startswith("failed") else Role.FACT
        yield Line(words, role)


def _time(document: Document) -> Iterator[Line]:
    """Yield where the time went, and the sum."""
    ended, begun = document["ended_at"], document["at"]
    whole = "still under way" if ended is None else f"{took(max(0.0, ended - begun) * 1000)} in all"
    yield Line(f"time: {whole}")
    for what, milliseconds in document["time"]:
        yield Line(f"  {took(milliseconds):>8}  {what}", Role.DIM)


def _is_bad(status: int) -> bool:
    return status == 0 or status >= 400


def _is_swapped(document: Document) -> bool:
    return bool(document["policy"]["name"].startswith("swap"))
