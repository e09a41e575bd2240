"""The log as JSON: one object a line, in place of mitmproxy's own lines.

mitmproxy prints its log with a handler of its own, on stdout. That handler stays, with its level, which is
`termlog_verbosity`, and its manners; only what makes a line of a record is another here. Records are redacted as they
are made (see `codexpool.redaction`), so there is no secret left in them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from mitmproxy import ctx, exceptions
from mitmproxy.addons.termlog import TermLogHandler
from mitmproxy.utils import human

from codexpool.redaction import redact_tokens

OPTION: Final = "codexpool_logs"
DEFAULT: Final = ""
HELP: Final = (
    "With json each record of the log is printed as a line of JSON (docs/running.md), and mitmdump's own lines about "
    "flows are left out, unless flow_detail is set."
)

JSON: Final = "json"


class JsonFormatter(logging.Formatter):
    """Makes one line of JSON of a record, in ASCII. Raises nothing: mitmproxy's handler would let it through."""

    def format(self, record: logging.LogRecord) -> str:
        try:
            document = _document(record)
        except Exception as error:  # Its words may not fit its arguments, or somebody's object has no text.
            document = {**_head(record), "message": f"a record that cannot be read ({type(error).__name__})"}
        return json.dumps(document)


def _head(record: logging.LogRecord) -> dict[str, str]:
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
    return {
        "time": time.replace("+00:00", "Z"),
        "level": str(record.levelname).lower(),
        "logger": str(record.name),
    }


def _document(record: logging.LogRecord) -> dict[str, str]:
    document = {**_head(record), "message": record.getMessage()}
    client: Any = getattr(record, "client", None)
    if client:
        document["client"] = human.format_address(client)
    if record.exc_info and record.exc_info[1] is not None:
        document["exception"] = redact_tokens(logging.Formatter().formatException(record.exc_info))
    return document


def _nothing() -> None:
    """There is nothing to undo."""


def log_as(form: str, is_set_by_user: Callable[[str], bool]) -> Callable[[], None]:
    """Have the log printed in that form from now on, ``json`` or empty for mitmproxy's own; returns what undoes it.

    ``is_set_by_user`` says whether an option of mitmproxy is the user's own word. Raises OptionsError for a form that
    is none, and where mitmproxy does not print its log (its own window shows it).
    """
    if not form:
        return _nothing
    if form != JSON:
        raise exceptions.OptionsError(f"{OPTION} is {form!r}; say --set {OPTION}={JSON}, or leave it out")
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, TermLogHandler)]
    if not handlers:
        raise exceptions.OptionsError(f"{OPTION}: mitmproxy's own window shows the log itself; use mitmdump")
    if "flow_detail" in ctx.options and not is_set_by_user("flow_detail"):
        ctx.options.update(flow_detail=0)  # It stays: the next `load` could not tell it from the user's word.
    before = [(one, one.formatter) for one in handlers]
    for handler in handlers:
        handler.setFormatter(JsonFormatter())

    def undo() -> None:
        for handler, formatter in before:
            handler.setFormatter(formatter)

    return undo
