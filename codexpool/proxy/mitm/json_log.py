"""The log as JSON: one object per line, in place of mitmproxy's own lines.

mitmproxy's own handler goes on printing, at its level (`termlog_verbosity`); only its formatter is replaced. Records
are redacted when they are made (see `codexpool.redaction`), so they have no secrets.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any, Final

from mitmproxy import ctx, exceptions
from mitmproxy.addons.termlog import TermLogHandler
from mitmproxy.utils import human

from codexpool.common.iso_time import iso_time
from codexpool.proxy.mitm.options import is_set_by_user
from codexpool.redaction import redact_tokens

OPTION: Final = "codexpool_logs"
DEFAULT: Final = ""
HELP: Final = (
    "Print the log as JSON, one object per line, if set to json (docs/running.md). mitmdump then prints no lines "
    "about flows, unless flow_detail is set."
)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of ASCII JSON. Never raises, because mitmproxy's handler would not catch it."""

    def format(self, record: logging.LogRecord) -> str:
        time = iso_time(record.created, "milliseconds")
        document = {"time": time, "level": record.levelname.lower(), "logger": record.name}
        try:
            document["message"] = record.getMessage()
            client: Any = getattr(record, "client", None)
            if client:
                document["client"] = human.format_address(client)
            if record.exc_info and record.exc_info[1] is not None:
                document["exception"] = redact_tokens(self.formatException(record.exc_info))
        except Exception as error:  # The arguments may not fit the message, or have no text.
            document["message"] = f"a record that cannot be read ({type(error).__name__})"
        return json.dumps(document)


def log_as(form: str) -> Callable[[], None]:
    """Print the log as ``json``, or as mitmproxy does if empty; return a function that undoes it.

    Raises OptionsError for another form, and if mitmproxy shows its log in a window.
    """
    if not form:
        return lambda: None
    handlers = [one for one in logging.getLogger().handlers if isinstance(one, TermLogHandler)]
    if form != "json":
        raise exceptions.OptionsError(f"{OPTION} is {form!r}; use --set {OPTION}=json, or leave it out")
    if not handlers:
        raise exceptions.OptionsError(f"{OPTION}: mitmproxy's own window shows the log itself; use mitmdump")
    if "flow_detail" in ctx.options and not is_set_by_user("flow_detail"):
        ctx.options.update(flow_detail=0)  # Never undone: the next `load` would take that for the user's setting.
    before = [(one, one.formatter) for one in handlers]
    for handler in handlers:
        handler.setFormatter(JsonFormatter())

    def undo() -> None:
        for handler, formatter in before:
            handler.setFormatter(formatter)

    return undo
