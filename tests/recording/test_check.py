"""The check finds every secret, however it is encoded, names its part of the flow, and never quotes it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mitmproxy import http

from codexpool.recording import files
from codexpool.recording.anonymize import Anonymizer, strip
from codexpool.recording.check import Check, Finding, secrets_in
from codexpool.recording.recorder import LeakError, Recording
from codexpool.redaction import redact_tokens
from tests.recording.flows import a_flow, readable, recorded
from tests.recording.secrets import ANYWHERE, anything, bearers, emails, pats, uuids

SECRET = "Zq7rTk2LmVb94XwPcN"
"""Nothing about it looks like a secret."""

FORMATS = pytest.mark.parametrize("as_har", [False, True], ids=["flows", "har"])


def raw(*flows: http.HTTPFlow, as_har: bool = False) -> bytes:
    """The content of a file with these flows as they are: what the check is there to refuse."""
    return files.dump([strip(flow) for flow in flows], as_har)


def found(content: bytes, *secrets: str) -> list[Finding]:
    return Check(secrets).findings(content)


Wrap = Callable[[str], str]

WRAPPED: dict[str, Wrap] = {
    "plain": str,
    "percent": lambda text: quote(text.replace("7", "%37"), safe="%"),
    "percent twice": lambda text: quote(text.replace("7", "%37"), safe=""),
    "escaped": lambda text: json.dumps({"x": text}).replace("q", "\\u0071"),
    "JSON in JSON": lambda text: json.dumps({"x": json.dumps({"y": text.replace("q", "/")})}),
    "base64": lambda text: base64.b64encode(b"ab" + text.encode() + b"c").decode(),
    "base64 of base64": lambda text: base64.b64encode(b"so: " + base64.b64encode(text.encode()) + b" end").decode(),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
}


@FORMATS
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_known_secret_is_found_however_it_is_written(wrapped: str, as_har: bool) -> None:
    secret = SECRET.replace("q", "/") if wrapped == "JSON in JSON" else SECRET
    flow = a_flow(answer_headers=[("x-odd", WRAPPED[wrapped](SECRET))])

    findings = found(raw(a_flow(), flow, as_har=as_har), secret)

    assert findings == [Finding(2, "response", "a known secret")]


@FORMATS
def test_a_body_is_refused(as_har: bool) -> None:
    for flow, where in ((a_flow(body="harmless"), "request"), (a_flow(answer="harmless"), "response")):
        findings = found(files.dump([flow], as_har))

        assert [finding.what for finding in findings] == ["a body"]
        assert findings[0].part == where


PLACES: dict[str, tuple[http.HTTPFlow, str]] = {
    "header": (a_flow(headers=[("x-odd", SECRET)]), "request"),
    "answer's header": (a_flow(answer_headers=[("x-odd", SECRET)]), "response"),
    "path": (a_flow(f"/x/{SECRET}"), "request"),
    "error": (a_flow(status=None, error=SECRET), "error"),
    "comment": (a_flow(comment=SECRET), "comment"),
    "trace": (a_flow(metadata={"codexpool": {"a": [{"b": SECRET}]}}), "trace"),
    "trace's key": (a_flow(metadata={"codexpool": {SECRET: 1}}), "trace"),
    "host": (a_flow(host=f"{SECRET.lower()}.example"), "request"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_finding_names_the_part_and_never_the_value(place: str) -> None:
    flow, where = PLACES[place]

    findings = found(raw(a_flow(), a_flow(), flow), SECRET, SECRET.lower())

    assert Finding(3, where, "a known secret") in findings
    assert SECRET not in " ".join(map(str, findings))


@pytest.mark.parametrize("place", ["header", "path", "error", "comment", "trace"])
def test_it_finds_the_same_in_a_har_file(place: str) -> None:
    findings = found(raw(a_flow(), PLACES[place][0], as_har=True), SECRET)

    assert {finding.flow for finding in findings} == {2}
    assert SECRET not in " ".join(map(str, findings))


def test_a_secret_in_the_name_of_a_header_is_found_and_not_shown() -> None:
    findings = found(raw(a_flow(headers=[(SECRET, "x")])), SECRET)

    assert [finding.flow for finding in findings] == [1]
    assert SECRET not in str(findings[0])


@given(pats | bearers.map("Bearer {}".format) | emails)
@settings(max_examples=60)
def test_what_looks_like_a_credential_is_refused(value: str) -> None:
    assert found(raw(a_flow(answer_headers=[("x-odd", f"see {value}")]))) != []


@given(uuids, emails)
@settings(max_examples=30)
def test_ids_and_addresses_are_known_in_either_case(uuid: str, email: str) -> None:
    assert found(raw(a_flow(answer_headers=[("x-odd", uuid.swapcase())])), uuid) != []
    assert found(raw(a_flow(answer_headers=[("x-odd", email.upper())])), email) != []


@FORMATS
@given(st.lists(st.tuples(anything, st.sampled_from(list(ANYWHERE.values()))), min_size=1, max_size=4))
@settings(max_examples=30)
def test_it_refuses_what_it_should_and_nothing_else(as_har: bool, planted: list[tuple[str, object]]) -> None:
    flows = [place(value) for value, place in planted]  # type: ignore[operator]

    # This raises if the check refuses pseudonyms.
    content = recorded(*flows, as_har=as_har)

    assert found(content, *[value for value, _ in planted]) == []


def test_what_redaction_knows_is_replaced() -> None:
    for value in ("at-abcdefgh", "rt_ABCDEFGH", "eyJabcdefghij", "Bearer abcdefghijklmnop", "x\\nat-abcdefgh12"):
        assert redact_tokens(value) != value
        text = readable(recorded(a_flow(status=None, error=f"it is {value} then")))
        assert value.removeprefix("Bearer ").removeprefix("x\\n") not in text


def test_the_clients_own_credentials_are_known() -> None:
    flow = a_flow(
        headers=[
            ("authorization", f"Bearer {SECRET}"),
            ("cookie", f"a=1; sid={SECRET}2; theme=dark"),
            ("chatgpt-account-id", "7c9e6679-7425-40de-944b-e07fc1f90ae7"),
        ],
        answer_headers=[("set-cookie", f'x="{SECRET}3"; Path=/')],
    )

    assert secrets_in([flow]) == {SECRET, f"{SECRET}2", f"{SECRET}3", "7c9e6679-7425-40de-944b-e07fc1f90ae7"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "at-a-time, start_here_and_there, format-specification of what-is-this",
        "Bearer <codexpool:identity-1> of person1@example.com, at-pseudonym-1",
        "eyJlcnJvciI6eyJjb2RlIjoidG9rZW5fZXhwaXJlZCJ9fQ==",
        "sha256:000000000001 00000000-0000-4000-8000-000000000001",
        "\\nperson1@example.com\\n",
    ],
)
def test_what_is_harmless_is_not_refused(text: str) -> None:
    flow = a_flow(headers=[("x-odd", text)], answer_headers=[("x-odd", json.dumps({"x": text}))])
    assert found(raw(flow), "short", "pseudonym-1") == []


def test_a_value_without_a_pseudonym_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = a_flow(headers=[("authorization", f"Bearer {SECRET}")])
    monkeypatch.setattr(Anonymizer, "_headers", lambda _self, headers: headers)
    recording = Recording(Path("it.flows"))
    recording.flows.append(strip(flow))

    with pytest.raises(LeakError) as refused:
        recording.content()

    assert "flow 1: request: a known secret" in str(refused.value)
    assert SECRET not in str(refused.value)


def test_a_token_of_the_pool_is_replaced_wherever_it_comes_from() -> None:
    recording = Recording(Path("it.flows"))
    recording.flows.append(strip(a_flow(status=None, error=f"echo {SECRET}")))
    recording.learn([SECRET], ["work"])

    content = recording.content()

    assert SECRET.encode() not in content
    assert b"echo pseudonym-1" in content


def test_a_credential_that_ends_like_a_placeholder_is_a_secret_all_the_same() -> None:
    key = f"{SECRET}>"
    flow = a_flow(headers=[("authorization", f"Bearer {key}"), ("x-api-key", key), ("cookie", "a=<codexpool:work>")])

    assert key in secrets_in([flow])
    assert secrets_in([a_flow(headers=[("authorization", "Bearer <codexpool:workplace-1>")])]) == set()
