"""Every header that the client and the backend exchange is explained, shortly and plainly."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from codexpool.protocol.headers import CLIENT_SECRETS, HEADERS
from codexpool.protocol.rate_limits import ACTIVE
from codexpool.redaction.known_headers import KNOWN, Value, known_header
from codexpool.redaction.secret_names import names_secret
from tests.standin import StandIn
from tests.standin.clients import ask, client_token, http, say, spare, websocket, work
from tests.standin.tokens import FORBIDDEN, SINGLE

CODEX = os.environ.get("CODEXPOOL_CODEX") or shutil.which("codex")

LIBRARIES = {"host", "accept", "accept-encoding", "connection", "user-agent", "content-length"}
"""What an HTTP library sends by itself."""


def unexplained(names: set[str]) -> set[str]:
    return {name for name in names if known_header(name) is None}


def test_every_header_of_the_policy_is_explained() -> None:
    assert unexplained({name.decode() for name in HEADERS}) == set()
    assert unexplained({*FORBIDDEN, *SINGLE}) == set()


@pytest.mark.parametrize("limit", ["codex", "codex-spark", "some-family-of-2026"])
@pytest.mark.parametrize("window", ["primary", "secondary"])
def test_every_header_of_a_limit_is_explained(limit: str, window: str) -> None:
    for what in ("used-percent", "window-minutes", "reset-at", "reset-after-seconds"):
        explained = known_header(f"X-{limit}-{window}-{what}")
        assert explained is not None
        assert explained.is_plain
        assert ("main limit" in explained.means) == (limit == "codex")
        assert limit == "codex" or limit in explained.means
    assert known_header(ACTIVE.decode()) is not None
    assert known_header(f"x-{limit}-limit-name") is not None


def test_everything_that_the_stand_in_answers_with_is_explained(tmp_path: Path) -> None:
    # Given
    names: set[str] = set()
    families = {"spark": "codex_spark"}
    with StandIn([work(), spare()], clients=[client_token()], folder=tmp_path, families=families) as standin:
        # When
        with http(standin) as client:
            answers = [ask(client, work()), client.get("https://chatgpt.com/nothing")]
            standin.kill(work().token)
            answers.append(ask(client, work()))
            standin.limit(spare().token, time.time() + 60)
            answers.append(ask(client, spare()))
            standin.unlimit(spare().token)
            answers.append(
                client.get(
                    "https://chatgpt.com/backend-api/codex/models",
                    headers={"authorization": f"Bearer {spare().token}", "chatgpt-account-id": "acc-spare"},
                )
            )
        with websocket(standin, spare(), **{"x-codex-routing-hint": "model=spark"}) as socket:
            say(socket)
            assert socket.response is not None
            names |= {name.lower() for name, _ in socket.response.headers.raw_items()}
        names |= {name.lower() for answer in answers for name in answer.headers}
        sent = {name.lower() for seen in standin.seen for name, _ in seen.headers}
    # Then
    assert {answer.status_code for answer in answers} >= {200, 401, 404, 429}
    assert {"x-codex-primary-used-percent", "x-codex-spark-primary-reset-at", "x-codex-turn-state"} <= names
    assert unexplained(names) == set()
    assert unexplained(sent - LIBRARIES) == set()


@pytest.mark.real_client
@pytest.mark.skipif(CODEX is None, reason="no codex on PATH, and CODEXPOOL_CODEX is not set")
@pytest.mark.parametrize("websockets", [True, False], ids=["websocket", "http"])
def test_everything_that_the_real_client_sends_is_explained(tmp_path: Path, websockets: bool) -> None:
    # Given
    home = tmp_path / "home"
    home.mkdir()
    with StandIn(
        [work()], clients=[work()], folder=tmp_path, websockets=websockets, alpn=("h2", "http/1.1")
    ) as standin:
        # When
        subprocess.run(
            [str(CODEX), "exec", "--skip-git-repo-check", "say hi"],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "CODEX_HOME": str(home),
                "CODEX_ACCESS_TOKEN": work().token,
                "CODEX_CA_CERTIFICATE": str(standin.ca_file),
                "HTTPS_PROXY": f"http://127.0.0.1:{standin.proxy_port}",
            },
            cwd=home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=90,
            check=True,
        )
        sent = {name.lower() for seen in standin.seen for name, _ in seen.headers}
    # Then
    assert {"x-codex-turn-metadata", "chatgpt-account-id", "originator"} <= sent
    assert unexplained(sent) == set()


def test_explanations_are_one_short_sentence_each() -> None:
    for name, explained in KNOWN.items():
        assert name == name.lower()
        assert re.fullmatch(r"[A-Z][^.!?\n]*(?:\.\w[^.!?\n]*)*\.", explained.means), name
        assert len(explained.means) <= 110, name


def test_what_a_flow_hides_is_no_plain_value() -> None:
    for name in (*CLIENT_SECRETS, b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"):
        explained = known_header(name.decode())
        assert explained is not None
        assert explained.value is Value.CREDENTIAL


def test_few_headers_with_a_telling_name_are_plain() -> None:
    told = {name for name, explained in KNOWN.items() if names_secret(name) and explained.is_plain}

    assert told == {"www-authenticate", "proxy-authenticate"}
