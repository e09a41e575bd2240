"""What the stand-in refuses, so that a test of the addon which passes against it means something."""

from __future__ import annotations

import json
from typing import Any

import pytest
import zstandard

from tests.standin import COMPACT, DISCOVERY, MODELS, RESPONSES, WHOAMI, StandIn, Token
from tests.standin.clients import CLIENT, WORK, answer_in, ask, client_token, dressed, http, prompt, spare, work
from tests.standin.tokens import FORBIDDEN, SINGLE

USAGE = "https://chatgpt.com/backend-api/wham/usage"
SETTINGS = "https://chatgpt.com/backend-api/wham/settings/user"


def test_a_valid_request_is_answered_under_its_name(standin: StandIn) -> None:
    with http(standin) as client:
        response = ask(client, work(), "say hi echo:banana")
    [seen] = standin.seen
    assert response.status_code == 200
    assert answer_in(response) == f"answer from work, request {seen.number}, banana"
    standin.wait(lambda: seen.complete)
    assert (seen.name, seen.status, standin.refusals, standin.leaks) == ("work", 200, [], [])
    assert seen.body is not None
    assert json.loads(seen.body)["model"] == "gpt-test"


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"authorization": "Bearer at-test-nobody"}, 401, "invalid_token"),
        ({"authorization": f"Bearer {CLIENT}"}, 401, "invalid_token"),
        ({"authorization": f"Basic {WORK}"}, 401, "invalid_token"),
        ({"chatgpt-account-id": "acc-spare"}, 403, "account_mismatch"),
        ({"chatgpt-account-id": ""}, 403, "account_mismatch"),
        ({"x-openai-fedramp": "true"}, 401, "fedramp_mismatch"),
        ({"x-openai-account-routing-override": "us"}, 400, "routing_mismatch"),
        ({"x-codex-turn-state": "turn-acc-spare-1"}, 400, "foreign_turn_state"),
        ({"x-note": "Bearer <codexpool:work>"}, 400, "placeholder"),
        *[({name: "x"}, 400, "unexpected_header") for name in FORBIDDEN],
    ],
)
def test_headers_that_do_not_fit_the_token_are_refused(
    standin: StandIn, headers: dict[str, str], status: int, code: str
) -> None:
    with http(standin) as client:
        response = ask(client, work(), **headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert standin.seen[0].refusal
    assert standin.refusals == [f"POST chatgpt.com{RESPONSES}: {standin.seen[0].refusal}"]


@pytest.mark.parametrize("name", [name for name in SINGLE if name != "host"])
def test_duplicate_headers_are_refused(standin: StandIn, name: str) -> None:
    value = dressed(work()).get(name, "x")
    headers = [*dressed(work()).items(), (name, value)]
    if name not in dressed(work()):
        headers.append((name, value))
    with http(standin) as client:
        response = client.get(f"https://chatgpt.com{MODELS}", headers=headers)
    assert response.json()["error"]["code"] == "duplicate_header"


GOV: dict[str, Any] = {"origin": "https://gov.chatgpt.com", "routing_override": "us_cr", "fedramp": True}


def test_a_routed_workspace_is_served_at_its_origin_only(standin: StandIn) -> None:
    token = work(**GOV)
    standin.add(token)
    with http(standin) as client:
        at_home = ask(client, token)
        elsewhere = client.post(f"https://chatgpt.com{RESPONSES}", json=prompt("hi"), headers=dressed(token))
        without = ask(client, token, **{"x-openai-fedramp": "false"})
    assert [at_home.status_code, elsewhere.status_code, without.status_code] == [200, 421, 401]
    assert [seen.fingerprint for seen in standin.leaks] == [standin.seen[1].fingerprint]


@pytest.mark.parametrize("path", [DISCOVERY, MODELS])
def test_discovery_and_models_need_no_origin(standin: StandIn, path: str) -> None:
    token = work(**GOV)
    standin.add(token)
    headers = dressed(token)
    del headers["x-openai-account-routing-override"]
    with http(standin) as client:
        assert client.get(f"https://chatgpt.com{path}", headers=headers).status_code == 200
    assert (standin.refusals, standin.leaks) == ([], [])


def test_an_origin_that_comes_with_a_new_token_is_served(standin: StandIn) -> None:
    token = Token("at-test-eu-0123456789abcdef", "acc-eu", "user-eu", origin="https://eu.backend.example", name="eu")
    standin.add(token)
    with http(standin) as client:
        assert answer_in(ask(client, token)).startswith("answer from eu")


def test_a_host_header_that_differs_from_the_tls_name_is_refused(standin: StandIn) -> None:
    with http(standin) as client:
        response = client.get(f"https://gov.chatgpt.com{MODELS}", headers={**dressed(work()), "host": "chatgpt.com"})
    assert response.status_code == 421


def test_a_dead_token_is_a_401_but_no_broken_rule(standin: StandIn) -> None:
    standin.kill(WORK)
    with http(standin) as client:
        refused = ask(client, work())
        whoami = client.get(f"https://auth.openai.com{WHOAMI}", headers={"authorization": f"Bearer {WORK}"})
        standin.revive(WORK)
        served = ask(client, work())
    assert [refused.status_code, whoami.status_code, served.status_code] == [401, 401, 200]
    assert refused.json()["error"]["code"] == "token_revoked"
    assert refused.headers["x-openai-authorization-error"] == "token_revoked"
    assert (standin.refusals, standin.leaks) == ([], [])


def test_personal_paths_take_the_clients_own_token_only(standin: StandIn) -> None:
    with http(standin) as client:
        own = client.get(SETTINGS, headers=dressed(client_token()))
        pooled = client.get(SETTINGS, headers=dressed(work()))
    assert (own.status_code, pooled.status_code) == (200, 401)
    assert standin.leaks == [standin.seen[1]]


def test_lent_paths_take_a_pool_token_with_its_headers(standin: StandIn) -> None:
    with http(standin) as client:
        own, pooled = (client.get(USAGE, headers=dressed(token)) for token in (client_token(), work()))
        mixed = client.get(USAGE, headers={**dressed(work()), "chatgpt-account-id": client_token().account_id})

    assert (own.status_code, pooled.status_code) == (200, 200)
    assert mixed.status_code == 403
    assert standin.leaks == []


@pytest.mark.parametrize(
    ("url", "headers"),
    [
        ("https://ab.chatgpt.com/otlp/v1/metrics", {"authorization": f"Bearer {WORK}"}),
        ("https://api.openai.com/v1/responses", {"authorization": f"Bearer {WORK}"}),
        ("https://chatgpt.com/", {"authorization": f"Bearer {WORK}"}),
        (f"https://chatgpt.com{RESPONSES}?key={WORK}", dressed(client_token())),
        (f"https://auth.openai.com{WHOAMI}", {"authorization": f"Bearer {CLIENT}", "cookie": f"t={WORK}"}),
    ],
)
def test_a_pooled_token_where_none_belongs_is_a_leak(standin: StandIn, url: str, headers: dict[str, str]) -> None:
    with http(standin) as client:
        client.get(url, headers=headers)
    assert len(standin.leaks) == 1


def test_a_pooled_token_in_a_body_is_a_leak(standin: StandIn) -> None:
    body = {"grant_type": "refresh_token", "refresh_token": WORK}
    with http(standin) as client:
        client.post("https://auth.openai.com/oauth/token", json=body)
    assert len(standin.leaks) == 1


def test_a_tunnel_to_a_stranger_is_refused_and_on_record(standin: StandIn) -> None:
    with http(standin) as client, pytest.raises(Exception, match="403"):
        client.get("https://github.com/")
    [seen] = standin.seen
    assert (seen.method, seen.host, seen.status) == ("CONNECT", "github.com", 403)
    assert standin.refusals == ["CONNECT github.comgithub.com:443: no tunnel to github.com:443"]


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (b"{", "identity"),
        (b"[]", "identity"),
        (json.dumps({**prompt("hi"), "model": None}).encode(), "identity"),
        (json.dumps({**prompt("hi"), "input": {"text": "hi"}}).encode(), "identity"),
        (json.dumps({**prompt("hi"), "stream": False}).encode(), "identity"),
        (json.dumps(prompt("hi", previous_response_id="resp_1")).encode(), "identity"),
        (json.dumps(prompt("hi")).encode(), "zstd"),
        (zstandard.compress(json.dumps(prompt("hi")).encode())[:-4], "zstd"),
        (zstandard.compress(json.dumps(prompt("hi")).encode()) + b"more", "zstd"),
        (json.dumps(prompt("hi")).encode(), "br"),
    ],
)
def test_a_body_the_backend_could_not_read_is_refused(standin: StandIn, body: bytes, coding: str) -> None:
    with http(standin) as client:
        response = client.post(
            f"https://chatgpt.com{RESPONSES}", content=body, headers={**dressed(work()), "content-encoding": coding}
        )
    assert response.status_code == 400
    assert standin.seen[0].refusal


@pytest.mark.parametrize(("kind", "status"), [("bound", 400), ("portable", 200)])
def test_foreign_reasoning_is_accepted_only_if_portable(standin: StandIn, kind: str, status: int) -> None:
    standin.backend.encrypted = "bound" if kind == "bound" else "portable"
    with http(standin) as client:
        events = ask(client, work()).text
        content = "enc:acc-work:resp_1"
        reasoning = {"type": "reasoning", "summary": [], "encrypted_content": content}
        assert content in events
        body = prompt("and now")
        body["input"].insert(0, reasoning)
        response = client.post(f"https://chatgpt.com{RESPONSES}", json=body, headers=dressed(spare()))
    assert response.status_code == status
    if status == 400:
        assert response.json()["error"]["code"] == "invalid_encrypted_content"


def test_compact_models_and_discovery_name_the_account(standin: StandIn) -> None:
    with http(standin) as client:
        compact = client.post(f"https://chatgpt.com{COMPACT}", json=prompt("hi"), headers=dressed(work()))
        models = client.get(f"https://chatgpt.com{MODELS}", headers=dressed(work()))
        discovery = client.get(f"https://chatgpt.com{DISCOVERY}", headers=dressed(spare()))
    assert len(compact.json()["output"]) == 1
    assert models.headers["etag"] == '"models-acc-work"'
    [account] = discovery.json()["accounts"]
    assert account["id"] == discovery.json()["default_account_id"] == "acc-spare"
