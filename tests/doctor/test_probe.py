"""What the answer to a probe shows."""

from __future__ import annotations

import json
import ssl
from typing import Any

import pytest

from codexpool.doctor.findings import Level
from codexpool.doctor.probe import HEADER, Probe, client_token, evaluate, findings, probe_headers
from codexpool.doctor.trust import Answer, Tunnel
from tests.doctor.fakes import KEY, client, probed

NUMBER = "0123456789abcdef"


def answer(document: Any, status: int = 200, **headers: str) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def of_proxy(**changes: Any) -> Answer:
    """An answer of the proxy to a probe over HTTP."""
    return answer(probed(NUMBER, "http", **changes), x_codexpool_probe=NUMBER)


def error(code: str, message: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


PROBE = Probe(NUMBER, "http", "at-test-0123456789abcdef")


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
        (of_proxy(replaced=["chatgpt-account-id"]), Level.WRONG, "not swapped"),
        (of_proxy(identity=None), Level.WRONG, "not swapped"),
        (of_proxy(transport="websocket"), Level.WRONG, "arrives as websocket"),
        (answer(probed("another", "http"), x_codexpool_probe=NUMBER), Level.WRONG, "not this proxy"),
        (answer(probed(NUMBER, "http")), Level.WRONG, "not this proxy"),
        (answer({}, 404), Level.WRONG, "not this proxy"),
        (answer(b"", 101), Level.WRONG, "not this proxy"),
        (answer({"error": {"message": "bad token"}}, 401, cf_ray="8f"), Level.WRONG, "not this proxy"),
        (answer({"error": {"message": "bad token"}}, 401), Level.WRONG, "not this proxy"),
        (answer(error("codexpool_not_a_member", "codexpool: no key"), 401), Level.WRONG, "refused: 401 no key"),
        (answer(error("codexpool_too_many_refusals", ""), 429), Level.NOTE, "has to wait"),
        (answer(error("usage_limit_reached", "ann has had 500 turns"), 429), Level.NOTE, "500 turns"),
        (answer(error("codexpool_failed_closed", "codexpool: broken"), 503), Level.WRONG, "503 broken"),
        (answer(error("codexpool_unservable", "nobody"), 426), Level.WRONG, "cannot be served"),
        (answer(b"work needs a login", 400), Level.WRONG, "work needs a login"),
    ],
)
def test_each_answer_has_its_finding(given: Answer, level: Level, words: str) -> None:
    finding = evaluate(given, PROBE)

    assert finding.level is level
    assert words in finding.text
    assert finding.level is not Level.WRONG or finding.remedy


def test_a_refused_key_and_no_key_have_different_remedies() -> None:
    refusal = answer(error("codexpool_not_a_member", "codexpool: unknown"), 401)

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

    assert headers[HEADER] == NUMBER
    assert headers["authorization"] == f"Bearer {KEY}"
    assert ("upgrade" in headers) is (transport == "websocket")


def test_a_second_proxy_with_another_authority_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Answer:
        raise ssl.SSLCertVerificationError("certificate verify failed")

    monkeypatch.setattr(Tunnel, "ask", refuse)
    for found in findings(Tunnel("127.0.0.1", 8080), ssl.create_default_context(), ""):
        assert (found.level, "another certificate authority" in found.text) == (Level.WRONG, True)
        assert "the same CA" in found.remedy
