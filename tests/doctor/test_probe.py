"""What the answer to a probe shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import crypto

from codexpool.doctor.findings import Level
from codexpool.doctor.probe import Probe, client_token, evaluate, findings, probe_headers
from codexpool.doctor.trust import Answer, Tunnel
from tests.doctor.fakes import KEY, client, probed, running

NUMBER = "0123456789abcdef"


def answer(document: Any, status: int = 200, **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def of_proxy(**changes: Any) -> Answer:
    """An answer of the proxy to a probe over HTTP."""
    return answer(probed(NUMBER, "http", **changes), x_codexpool_probe=NUMBER)


PROBE = Probe(NUMBER, "http", "at-test-0123456789abcdef")


def refused(status: int, reason: str) -> Answer:
    return of_proxy(identity=None, replaced=[], refused={"status": status, "reason": reason})


@pytest.mark.parametrize(
    ("given", "level", "words"),
    [
        (of_proxy(), Level.OK, "arrives for member ann, and is swapped to work"),
        (
            of_proxy(member=None, replaced=["authorization"]),
            Level.OK,
            "arrives, and is swapped to work (authorization)",
        ),
        (of_proxy(observing=True, identity=None, replaced=[]), Level.NOTE, "only observes"),
        (of_proxy(pool=False, identity=None, replaced=[]), Level.WRONG, "has no pool"),
        (of_proxy(replaced=["chatgpt-account-id"]), Level.WRONG, "not swapped"),
        (of_proxy(identity=None), Level.WRONG, "not swapped"),
        (of_proxy(transport="websocket"), Level.WRONG, "arrives as websocket"),
        (answer(probed("another", "http"), x_codexpool_probe=NUMBER), Level.WRONG, "not this proxy"),
        (answer(probed(NUMBER, "http")), Level.WRONG, "not this proxy"),
        (answer({}, 404), Level.WRONG, "not this proxy"),
        (answer(b"", 101), Level.WRONG, "not this proxy"),
        (answer({"error": {"message": "bad token"}}, 401, cf_ray="8f"), Level.WRONG, "not this proxy"),
        (refused(401, "codexpool: no key"), Level.WRONG, "refused: 401 no key"),
        (refused(429, "limited until 12:00"), Level.NOTE, "has to wait: 429 limited until 12:00"),
        (refused(503, "codexpool: broken"), Level.WRONG, "cannot be served: 503 broken"),
    ],
)
def test_each_answer_has_its_finding(given: Answer, level: Level, words: str) -> None:
    finding = evaluate(given, PROBE)

    assert finding.level is level
    assert words in finding.text
    assert finding.level is Level.OK or finding.remedy


def test_a_refused_key_and_no_key_have_different_remedies() -> None:
    refusal = refused(401, "codexpool: unknown")

    assert "new key" in evaluate(refusal, PROBE._replace(token=KEY)).remedy
    assert "CODEX_ACCESS_TOKEN" in evaluate(refusal, PROBE).remedy


@pytest.mark.parametrize(
    ("environ", "auth_json", "token"),
    [
        ({"CODEX_ACCESS_TOKEN": KEY}, "", KEY),
        ({}, json.dumps({"OPENAI_API_KEY": None, "personal_access_token": KEY}), KEY),
        ({"CODEX_ACCESS_TOKEN": "eyJ0ZXN0"}, json.dumps({"personal_access_token": KEY}), ""),
        ({}, json.dumps({"tokens": {"access_token": "eyJ0ZXN0"}}), ""),
        ({}, "no JSON", ""),
        ({}, "", ""),
    ],
)
def test_the_probe_has_the_token_of_the_client(environ: dict[str, str], auth_json: str, token: str) -> None:
    assert client_token(client(environ), auth_json) == token


@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_a_probe_looks_like_the_request_of_a_client(transport: str) -> None:
    headers = probe_headers(Probe(NUMBER, transport, KEY))

    assert headers["authorization"] == f"Bearer {KEY}"
    assert ("upgrade" in headers) is (transport == "websocket")


def test_a_second_proxy_with_another_authority_is_told_and_gets_no_token(tmp_path: Path) -> None:
    with running(tmp_path) as other:
        found = list(findings(Tunnel("127.0.0.1", other.port), crypto.X509Store(), KEY))

    assert [(one.level, "another certificate authority" in one.text) for one in found] == [(Level.WRONG, True)] * 2
    assert all("the same CA" in one.remedy for one in found)
    assert (other.probes, other.failed_handshakes) == ([], 0)
