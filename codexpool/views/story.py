"""Explains what happened to a request and why: the document of its trace in, lines of text out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from codexpool.pool.needs import NAMES
from codexpool.views.formatting import Line, Role, clock, plain, size, took, zoned_time

Document = Mapping[str, Any]

ROW_MEANS: Final = {
    "1": "a good answer; the client gets it.",
    "2": "the refused token is no longer the identity's; the request goes out again with its present one.",
    "3": "the content network answered, which says nothing about the token; the client gets it, and the host rests.",
    "3a": "a 401 of the content network, which makes a client renew its login; it goes out under the next identity.",
    "3b": "this is about the proxy's address, the same under every identity; the client gets it.",
    "4": "this endpoint refuses the token, which others may accept; the request goes out under the next identity.",
    "4a": "the account does not have the model, for an hour at least; the request goes out under the next identity.",
    "4b": "a 403 without a reason; another identity is tried once. The third in a row pauses the identity briefly.",
    "4c": "the client only asked what is left, so this counts there alone; it goes out under the next identity.",
    "5": "the workspace is no longer served; its identity is paused, and the request goes out under the next one.",
    "5a": "several identities were refused alike; the others are tried, and the client gets it if all refuse.",
    "5b": "an endpoint beside the model refuses, which counts there alone; it goes out under the next identity.",
    "6": "the access token of a login is refused; it is renewed and sent again, else under the next identity.",
    "7": "the backend refuses a PAT, which only a person can replace; the request goes out under the next identity, "
    "and whoami is asked meanwhile whether the token is dead.",
    "8": "a token printed by a command is refused; the command is run again, else under the next identity.",
    "8a": "the task of an agent is refused; a new one is registered and used, else under the next identity.",
    "8b": "an endpoint beside the model refuses the agent, which counts there alone; it goes out under the next one.",
    "10": "the account has used up a limit, and rests until it resets; the request goes out under the next identity.",
    "11": "the account is asked to slow down, and rests for a moment; the request goes out under the next identity.",
    "12": "the request has encrypted reasoning of another account; it goes out once more without it.",
    "13": "trouble at the backend or on the way, and safe to repeat; it goes out once more under the same identity.",
    "13a": "the model is at capacity for everyone; the client gets it at once, and no identity suffers.",
    "13b": "trouble at the backend or on the way, and the request may have begun to act; the client gets it.",
    "14": "this is about the request itself, under any identity; the client gets it.",
}
"""What each row of the table of verdicts (`codexpool.pool.verdict`) means, by its number."""

SWITCHED: Final = 101


def explained(document: Document) -> list[Line]:
    """Return the story of a request: its outcome, what was asked, which identities were tried and why, and the time.

    ``document`` is that of a trace (``flow.metadata["codexpool"]``). No line has a control character.
    """
    return [line._replace(text=plain(line.text)) for line in _lines(document)]


def _lines(document: Document) -> Iterator[Line]:
    yield Line(f"{document['method']} {document['url']}", Role.HEADING)
    yield _outcome(document)
    if message := document["answer"]["message"]:
        was_told = "would have been told" if document["observed"] else "was told"
        is_bad = _is_bad(document["answer"]["status"] or 0)
        yield Line(f"  the client {was_told}: {message}", Role.BAD if is_bad else Role.FACT)
    yield Line(_circumstances(document), Role.DIM)
    yield Line("What was asked", Role.HEADING)
    yield from _asked(document)
    yield Line("Identities tried", Role.HEADING)
    yield from _tried(document)
    if document["turns"]:
        yield Line("Turns on the socket", Role.HEADING)
        yield from map(_turn, document["turns"])
    yield Line("Where the time went", Role.HEADING)
    ended = document["ended_at"]
    whole = "still under way" if ended is None else f"{took(max(0.0, ended - document['at']) * 1000)} in all"
    yield Line(f"time: {whole}")
    for what, milliseconds in document["time"]:
        yield Line(f"  {took(milliseconds):>8}  {what}", Role.DIM)


def _outcome(document: Document) -> Line:
    """Return in one line which identity served."""
    answer, attempts, is_over = document["answer"], document["attempts"], document["ended_at"] is not None
    status, by = answer["status"], answer["by"]
    if answer["error"]:
        return Line(f"it ended in an error: {answer['error']}", Role.BAD)
    if status is None:
        return Line("it ended without an answer", Role.BAD) if is_over else Line("it is still under way")
    if by == "codexpool" and not _is_bad(status):
        return Line(f"codexpool answered {status} itself", Role.GOOD)
    if by == "codexpool":
        return Line(f"no identity served it: codexpool answered {status} in the backend's place", Role.BAD)
    if by not in ("backend", None):
        return Line(f"{by} answered {status} in the backend's place")
    identity = attempts[-1]["identity"] if attempts else ""
    number = f", attempt {len(attempts)}" if len(attempts) > 1 else ""
    if document["policy"]["name"] == "never" and not attempts:
        words = f"{document['host']} answered {status}; nothing was changed"
    elif not attempts or document["observed"]:
        words = f"the backend answered {status} to the client's own credential"
    elif status == SWITCHED:
        words = f"{identity} opened the socket{number}: {status}"
    elif _is_bad(status):
        words = f"the client got the backend's answer to {identity}{number}: {status}"
    else:
        words = f"{identity} served it{number}: {status}"
    if not is_over:
        words += ", and it is open" if status == SWITCHED else ", and it is still under way"
    return Line(words, Role.BAD if _is_bad(status) else Role.GOOD)


def _circumstances(document: Document) -> str:
    answer, agent = document["answer"], document["session"]["user_agent"]
    words = [zoned_time(document["at"])]
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
    source = f", read from {session['from']}" if session["from"] else ""
    yield Line("session: none is named" if session["key"] is None else f"session: {session['key']}{source}")
    if session["parent"] is not None:
        yield Line(f"  it was started by session {session['parent']}")
    if session["model"]:
        yield Line(f"model: {session['model']}")


def _tried(document: Document) -> Iterator[Line]:
    attempts = document["attempts"]
    if not attempts and document["policy"]["name"].startswith(("swap", "lent")):
        yield Line("none", Role.BAD if _is_bad(document["answer"]["status"] or SWITCHED) else Role.FACT)
    elif not attempts:
        yield Line("none: it keeps the credential that the client sent")
    for attempt in attempts:
        yield from _attempt(attempt, document["observed"], document["ended_at"] is not None)
    for wait in document["waits"]:
        yield Line(f"it waited for {took(wait['milliseconds'])}: {wait['for']}")


def _attempt(attempt: Document, observed: bool, is_over: bool) -> Iterator[Line]:
    chosen = "would have been chosen" if observed else "was chosen"
    because = attempt["because"]
    if because.startswith("a "):
        because = f"this is {because}"
    yield Line(f"{attempt['identity']} {chosen} because {because}")
    yield from _candidates(attempt["candidates"])
    yield _sent(attempt, observed, is_over)
    verdict = attempt["verdict"]
    if verdict is not None and (means := ROW_MEANS.get(verdict["row"])) is not None:
        yield Line(f"  row {verdict['row']}: {means}", Role.DIM)
    if attempt["request_id"]:
        yield Line(f"  the backend's id of it: {attempt['request_id']}", Role.DIM)


def _candidates(candidates: list[Document] | None) -> Iterator[Line]:
    if candidates is None:
        yield Line("  no other identity was considered", Role.DIM)
        return
    for candidate in candidates:
        reasons = [f"for it: {', '.join(candidate['for'])}"] if candidate["for"] else []
        reasons += [f"against it: {', '.join(candidate['against'])}"] if candidate["against"] else []
        sign = "*" if candidate["chosen"] else "-"
        yield Line(f"  {sign} {candidate['name']}: {'; '.join(reasons) or 'nothing for or against it'}", Role.DIM)


def _sent(attempt: Document, observed: bool, is_over: bool) -> Line:
    """Return the attempt itself: its identity, its outcome, and the verdict."""
    status, verdict = attempt["status"], attempt["verdict"]
    kind = NAMES.get(attempt["kind"], attempt["kind"])
    fingerprint = f" sha256:{attempt['fingerprint']}" if attempt["fingerprint"] else ""
    words = f"attempt {attempt['number']}, {attempt['identity']} ({kind}{fingerprint})"
    if attempt["lighter"]:
        words += ", without its encrypted reasoning"
    if observed:
        words += ": would have been sent"
    if status is None:
        if not observed and attempt["sent_at"] is None:
            words += ": was not sent"
        elif not observed:
            words += ": no answer came" if is_over else ": sent, and no answer yet"
        return Line(words)
    words += "; the client's own credential got: " if observed else ": "
    words += str(attempt["evidence"] or status or "the connection was lost before an answer began")
    if attempt["milliseconds"] is not None:
        words += f", after {took(attempt['milliseconds'])}"
    if verdict is not None:
        words += f" → row {verdict['row']}, {verdict['finding']}: {verdict['next']}"
    return Line(words, Role.BAD if _is_bad(status) else Role.GOOD)


def _turn(turn: Document) -> Line:
    outcome, milliseconds = turn["outcome"], turn["milliseconds"]
    words = f"{clock(turn['at'])}: {outcome or 'under way'}"
    if milliseconds is not None:
        asked = f"{size(turn['request_bytes'])} asked, " if "request_bytes" in turn else ""  # Not in older files.
        words += f", after {took(milliseconds)}, {asked}{size(turn['bytes'])} answered"
    return Line(
        words, Role.GOOD if outcome == "completed" else Role.BAD if outcome.startswith("failed") else Role.FACT
    )


def _is_bad(status: int) -> bool:
    return status == 0 or status >= 400
