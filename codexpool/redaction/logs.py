"""Keeps secrets out of all logs, also out of those of other libraries."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

from codexpool.redaction.redact import redact_text
from codexpool.tokens.bearer import fingerprint

_HINTS = ("at-", "bearer", "eyj", "rt_", "bqydk2vw", "codexpool-sk-")
"""What every text with a secret has in it, in lower case. Nearly no line has any, and most are done with here."""

_SECRET = re.compile(
    r"""
      (?P<scheme> (?i:bearer) (?: \s | %20 | \+ )+ ) (?P<credential> [\w.~+/=-]{16,} ) (?<! \. )
    | (?: (?<! [A-Za-z] )                           # "format-…" and "start_…" are words,
        | (?<= \\[abfnrtv] ) | (?<= \\x[0-9a-f]{2} ) # but the letter may be what is left of a line end
        | (?<= \\u[0-9a-f]{4} ) | (?<= %[0-9A-Fa-f]{2} ) )
      (?P<token> (?: at- | eyJ | rt_ | codexpool-sk- | M\w{3}AQ[AE]wBQYDK2Vw ) [\w.~+/=-]{8,} ) (?<! \. )
    """,
    re.VERBOSE,
)

_WORDS = (
    *("authorization", "cookie", "api-key", "api_key", "apikey", "secret", "passw", "credential", "token"),
    *("sk-", "ghp_", "gho_", "github_pat", "basic ", "session"),
)
"""What is near a secret in what others log, as the raw bytes of a connection, in lower case."""

_MARKS = re.compile(r"(<sha256:[0-9a-f]{12}>|\n)")


def _of_others(text: str) -> str:
    """Redact what another library logs: by looks, and by names."""
    lower = text.lower()
    if not any(word in lower for word in _WORDS):
        return redact_tokens(text)
    pieces = _MARKS.split(redact_tokens(text))  # A fingerprint stays as it is.
    return "".join(piece if at % 2 else redact_text(piece, full=True) for at, piece in enumerate(pieces))


def redact_tokens(text: str) -> str:
    """Return the text with everything that looks like a token replaced by its fingerprint."""
    lower = text.lower()
    if not any(hint in lower for hint in _HINTS):
        return text
    return _SECRET.sub(
        lambda match: f"{match['scheme'] or ''}<sha256:{fingerprint(match['credential'] or match['token'])}>", text
    )


def redact_logs() -> Callable[[], None]:
    """Redact every log record of this process as it is made; return a function that undoes this.

    A filter would be needed on every handler, also on those of mitmweb and other addons. The need is real:
    mitmproxy's ``proxy_debug`` logs the raw bytes of every connection, and the exception for a header that cannot be
    sent quotes its value.
    """
    make = logging.getLogRecordFactory()

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        try:
            text = record.getMessage()
            error = record.exc_info
            trace = logging.Formatter().formatException(error) if error and error[1] is not None else ""
            safe_one = redact_tokens if record.name.split(".")[0] == "codexpool" else _of_others
            safe, safe_trace = safe_one(text), safe_one(trace)
        except Exception:
            return record  # Its handler reports a broken record.
        if safe_trace != trace:
            # Handlers format the exception again: remove it.
            safe, record.exc_info = f"{safe}\n{safe_trace}", None
        if safe != text:
            record.msg, record.args = safe, ()
        return record

    logging.setLogRecordFactory(make_redacted)

    def undo() -> None:
        if logging.getLogRecordFactory() is make_redacted:
            logging.setLogRecordFactory(make)

    return undo
