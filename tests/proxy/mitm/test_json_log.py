"""The log as JSON: one line for each record, whatever is logged."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.addons.dumper import Dumper
from mitmproxy.addons.termlog import TermLogHandler
from mitmproxy.test import taddons

from codexpool.proxy.mitm.json_log import JsonFormatter, log_as
from codexpool.redaction import redact_logs

SECRET = "at-test-logged-0123456789abcdef0123456789"


class Printed:
    """What mitmproxy's handler has printed."""

    context: taddons.context

    def __init__(self) -> None:
        self.out = io.StringIO()

    @property
    def lines(self) -> list[dict[str, Any]]:
        text = self.out.getvalue()
        assert text.isascii()
        return [json.loads(line) for line in text.splitlines()]


@contextmanager
def mitmdump() -> Iterator[Printed]:
    """mitmproxy prints its log, and records are redacted as the addon has it."""
    said, root, undo = Printed(), logging.getLogger(), redact_logs()
    level = root.level
    try:
        with taddons.context(Dumper()) as said.context:
            handler = TermLogHandler(said.out)
            handler.install()
            handler.setLevel(logging.INFO)
            root.setLevel(logging.DEBUG)
            yield said
            handler.uninstall()
    finally:
        root.setLevel(level)
        undo()


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    with mitmdump() as printed:
        log_as("json")
        logger = logging.getLogger("codexpool.test")

        logger.info("two\nlines, %s: \u2028 é\x00", "words")
        logger.info("of a client", extra={"client": ("192.168.1.7", 40_000)})
        logger.warning("a token: %s", SECRET)
        logger.debug("more than was asked for")
        logger.info("%s", json.dumps({"message": '{"json": "in it"}'}))

        lines = printed.lines
        assert [line["level"] for line in lines] == ["info", "info", "warning", "info"]
        assert lines[0]["message"] == "two\nlines, words: \u2028 é\x00"
        assert lines[0]["time"][10] + lines[0]["time"][19] + lines[0]["time"][23:] == "T.Z"
        assert lines[0]["logger"] == "codexpool.test"
        assert lines[1]["client"] == "192.168.1.7:40000"
        assert SECRET not in printed.out.getvalue()
        assert lines[2]["message"].startswith("a token: <sha256:")


def test_half_a_surrogate_pair_is_written_in_ascii() -> None:
    record = logging.LogRecord("codexpool.test", logging.INFO, "", 0, "half: \ud800", (), None)

    line = JsonFormatter().format(record)

    assert line.isascii()
    assert json.loads(line)["message"] == "half: \ud800"


@pytest.mark.parametrize(
    ("words", "argument"), [("%d arguments", "no"), ("an object: %s", Broken())], ids=["%d", "%s"]
)
def test_an_unreadable_record_is_a_line(words: str, argument: object) -> None:
    record = logging.LogRecord("somebody", logging.INFO, "file.py", 1, words, (argument,), None)

    line = json.loads(JsonFormatter().format(record))

    assert (line["logger"], line["level"]) == ("somebody", "info")
    assert line["message"].startswith("a record that cannot be read (")


def test_an_exception_is_in_the_line_of_its_record() -> None:
    with mitmdump() as printed:
        log_as("json")

        try:
            raise ValueError("it broke")
        except ValueError:
            logging.getLogger("codexpool").exception("something failed")
        try:
            raise ValueError(SECRET)
        except ValueError:
            logging.getLogger("codexpool").exception("something else failed")

        first, second = printed.lines
        assert first["message"] == "something failed"
        assert "Traceback" in first["exception"]
        assert first["exception"].endswith("ValueError: it broke")
        assert SECRET not in json.dumps(second)


def test_lines_about_flows_appear_only_if_requested() -> None:
    with mitmdump() as printed:
        printed.context.options.update(flow_detail=1)
        undo = log_as("json")
        assert printed.context.options.flow_detail == 1
        undo()

    with mitmdump() as printed:
        log_as("json")
        assert printed.context.options.flow_detail == 0


def test_undo_restores_mitmproxys_lines() -> None:
    with mitmdump() as printed:
        undo = log_as("json")

        undo()

        logging.getLogger("codexpool").info("as ever")
        assert printed.out.getvalue().endswith("] as ever\n")


def test_without_the_option_nothing_is_changed() -> None:
    with mitmdump() as printed:
        log_as("")()

        logging.getLogger("codexpool").info("as ever")
        assert printed.out.getvalue().endswith("] as ever\n")
        assert printed.context.options.flow_detail == 1


def test_unknown_forms_and_tools_with_a_window_are_refused() -> None:
    with mitmdump():
        with pytest.raises(exceptions.OptionsError, match="use --set codexpool_logs=json"):
            log_as("xml")
        root = logging.getLogger()
        for handler in [one for one in root.handlers if isinstance(one, TermLogHandler)]:
            root.removeHandler(handler)
        with pytest.raises(exceptions.OptionsError, match="use mitmdump"):
            log_as("json")
