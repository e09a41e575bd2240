from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mitmproxy.log import MitmFormatter

from codexpool.redaction.logs import redact_logs, redact_tokens
from codexpool.tokens.bearer import Bearer, fingerprint

TOKEN_SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
opaque = st.text(TOKEN_SIGNS, min_size=16, max_size=60)
tokens = (
    opaque.map("at-{}".format)
    | opaque.map("rt_{}".format)
    | st.tuples(opaque, opaque, opaque).map("eyJ{0[0]}.{0[1]}.{0[2]}".format)
)

# What a token is met between: prose, JSON and its escapes, the repr of bytes, percent-encoding, header lines.
BEFORE = [
    *("", " ", "(", "'", '"', "=", ":", "/", "\t", "\n", "[", "<", ",", "_", "-", "7", "é", "\x00"),
    *("Bearer ", "bearer ", "BEARER ", "Bearer\t", "Bearer  ", "Bearer%20", "Bearer+", "AgentAssertion "),
    *('"token":"', "b'authorization: Bearer ", "\\n", "\\r\\n", "\\t", "\\x00", "\\x0a", "\\u0022"),
    *("access_token=", "refresh_token=", "https://chatgpt.com/?token=", "format at-", "%22", "%3D", "%3a"),
]
AFTER = ["", " ", ")", "'", '"', ",", ";", "\n", "\\n", "\\r\\n", "&x=y", "%22", ". And", "…", "<", "\x00"]
prose = st.text(max_size=20)


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a handler of mitmproxy's prints while logs are redacted."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(MitmFormatter(colorize=False))
    logger = logging.getLogger("another.library")
    logger.addHandler(handler)
    logger.propagate = False
    undo = redact_logs()
    yield out
    undo()
    logger.removeHandler(handler)


logger = logging.getLogger("another.library")


@given(prose, st.sampled_from(BEFORE), tokens, st.sampled_from(AFTER), prose)
def test_no_token_survives_whatever_is_around_it(left: str, before: str, token: str, after: str, right: str) -> None:
    assume(token[3:] not in left + right)

    shown = redact_tokens(f"{left} {before}{token}{after}{right}")

    assert token not in shown
    assert token[3:] not in shown


@given(st.sampled_from(["Bearer ", "bearer ", "BEARER ", "Bearer\t", "Bearer%20"]), opaque, st.sampled_from(AFTER))
def test_no_bearer_value_survives(before: str, value: str, after: str) -> None:
    assert value not in redact_tokens(f"authorization: {before}{value}{after}")


@given(tokens, st.sampled_from(["{}", "token {}", "Bearer {}", "{}. And so on", '{{"token":"{}"}}']))
def test_a_token_is_replaced_with_its_fingerprint(token: str, around: str) -> None:
    assert redact_tokens(around.format(token)) == around.format(f"<sha256:{fingerprint(token)}>")


@given(tokens, tokens)
def test_every_one_of_several_tokens_is_replaced(one: str, other: str) -> None:
    shown = redact_tokens(f"{one} {other}, {one}")

    assert one not in shown
    assert other not in shown


@given(st.text() | tokens.map("Bearer {}".format))
def test_redacting_twice_changes_nothing(text: str) -> None:
    assert redact_tokens(redact_tokens(text)) == redact_tokens(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:54321: POST https://chatgpt.com/backend-api/codex/responses HTTP/1.1 << 200 OK 12.4k",
        "authorization: Bearer <codexpool:work>",
        "work is ready: PAT sha256:1a2b3c4d5e6f, account account-1, business",
        "format-specification of what-is-this-about and that-other-thing",
        "start_server, port_number_of_upstream, monkeyJumping",
        "token_revoked, no at- prefix: it does not start with at-",
        "www-authenticate: Bearer realm=codex",
        "look at-once, at-a-time",
        'token = "at-…"',
    ],
)
def test_ordinary_text_is_left_as_it_is(text: str) -> None:
    assert redact_tokens(text) == text


@given(st.text(st.characters(exclude_characters="-_yJ")))
def test_text_without_any_sign_of_a_token_is_left_as_it_is(text: str) -> None:
    if "bearer" not in text.lower():
        assert redact_tokens(text) == text


# -- log records

SECRET = "at-test-secret-of-the-pool"


def test_log_shows_no_token_in_the_message_or_its_arguments(logged: io.StringIO) -> None:
    logger.warning("refused %s", SECRET)
    logger.warning(f"refused {SECRET}")
    logger.warning("refused %(token)s", {"token": SECRET})
    logger.warning("%r", b"authorization: Bearer " + SECRET.encode() + b"\r\n")
    logger.warning(ValueError(SECRET))

    assert SECRET not in logged.getvalue()
    assert logged.getvalue().count(fingerprint(SECRET)) == 5


def test_log_shows_no_token_in_a_traceback_however_deep(logged: io.StringIO) -> None:
    try:
        try:
            raise ValueError(f"Illegal header value b'Bearer {SECRET}'")
        except ValueError as error:
            raise RuntimeError("could not ask") from error
    except RuntimeError as error:
        logger.exception("first")
        logger.error("second", exc_info=error)

    assert SECRET not in logged.getvalue()
    assert logged.getvalue().count(fingerprint(SECRET)) == 2
    assert logged.getvalue().count("RuntimeError: could not ask") == 2
    assert "first" in logged.getvalue()


def test_traceback_without_a_token_stays_with_its_record(
    logged: io.StringIO, caplog: pytest.LogCaptureFixture
) -> None:
    logger.addHandler(caplog.handler)
    try:
        raise KeyError("b")
    except KeyError:
        logger.exception("failed: %s", "reading")
    logger.removeHandler(caplog.handler)

    (record,) = caplog.records
    assert record.exc_info is not None
    assert (record.msg, record.args) == ("failed: %s", ("reading",))
    assert "KeyError: 'b'" in logged.getvalue()


@pytest.mark.usefixtures("logged")
def test_broken_record_is_left_to_its_handler() -> None:
    record = logger.makeRecord("x", logging.WARNING, __file__, 1, "%d", ("no number",), None)

    assert (record.msg, record.args) == ("%d", ("no number",))


def test_redaction_ends_with_the_addon() -> None:
    before = logging.getLogRecordFactory()

    undo = redact_logs()
    during = logging.getLogRecordFactory()
    undo()

    assert during is not before
    assert logging.getLogRecordFactory() is before


def test_redaction_does_not_undo_what_another_addon_did_after_it() -> None:
    before = logging.getLogRecordFactory()
    undo = redact_logs()

    def later(*args: Any, **kwargs: Any) -> logging.LogRecord:
        return logging.LogRecord(*args, **kwargs)

    logging.setLogRecordFactory(later)

    undo()

    assert logging.getLogRecordFactory() is later
    logging.setLogRecordFactory(before)


def test_bearer_shows_its_fingerprint_only() -> None:
    bearer = Bearer.of(SECRET)

    assert SECRET not in f"{bearer} {bearer!r}"
    assert fingerprint(SECRET) in f"{bearer}"


@pytest.mark.parametrize(
    "line",
    [
        "b'GET / HTTP/1.1\\r\\nx-api-key: Zx81kQpW7vB2nR5t-hunter2\\r\\n'",
        "Cookie: sid=Zx81kQpW7vB2nR5t-hunter2",
        '{"refresh_token":"Zx81kQpW7vB2nR5t-hunter2"}',
        "Authorization: Basic Ym9iOlp4ODFrUXBXN3ZCMm5SNXQtaHVudGVyMg==",
        "key sk-proj-Zx81kQpW7vB2nR5thunter2abcd",
    ],
)
def test_what_others_log_has_no_secret_of_any_kind(line: str, caplog: pytest.LogCaptureFixture) -> None:
    undo = redact_logs()
    try:
        with caplog.at_level(logging.DEBUG):
            logging.getLogger("mitmproxy.proxy.server").debug("%s", line)
            logging.getLogger("asyncio").error("it broke", exc_info=ValueError(line))
    finally:
        undo()

    assert "hunter2" not in caplog.text
    assert "YWhVbnRlcjI" not in caplog.text
    assert "NXQtaHVudGVyMg" not in caplog.text
    assert "it broke" in caplog.text
