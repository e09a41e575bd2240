"""The real Codex CLI if one identity is refused what another one may do: the person sees nothing."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest

from tests.client.conftest import Make, World
from tests.running import answered, pat, trouble
from tests.standin import RESPONSES, Answer

pytestmark = pytest.mark.real_client

NO_MATCHING_RULE = {"error": {"code": "no_matching_rule", "message": "no rule lets this token in"}}
UNCLEAR = {"error": {"code": None, "message": "refresh and try again"}}


def drain_first(make: Make, *names: str, transport: str) -> World:
    return make(*map(pat, names), transport=transport, head='[pool]\nselection = "drain-first"\n')


def turns(world: World, name: str, transport: str) -> int:
    """Count an identity's model requests: messages or POSTs, without prewarms."""
    kind = "message" if transport == "websocket" else "http"
    return sum(seen.transport == kind for seen in world.standin.requests(RESPONSES, name))


def refuse_model(world: World, name: str, transport: str) -> None:
    """Have the backend refuse an account the model that the client uses."""
    token = next(token for token in world.tokens if token.name == name)
    run = world.client.exec("say echo:model")
    model = re.search(r"^model: (\S+)", run.stderr + run.stdout, re.MULTILINE)
    assert model, run.stderr
    words = f"The '{model[1]}' model is not supported when using Codex with a ChatGPT account."
    if transport == "websocket":
        body = {"error": {"type": "invalid_request_error", "message": words}}
        world.standin.plan(
            Answer(path=RESPONSES, token=token.token, transport="message", times=None, status=400, body=body)
        )
    else:
        world.standin.plan(
            Answer(path=RESPONSES, token=token.token, method="POST", times=None, status=400, body={"detail": words})
        )


def test_an_endpoint_that_refuses_one_token_goes_unseen(make: Make, transport: str) -> None:
    world = drain_first(make, "one", "two", transport=transport)
    method = "POST" if transport == "http" else "GET"
    token = world.tokens[0].token
    refusal = Answer(path=RESPONSES, method=method, token=token, times=None, status=401, body=NO_MATCHING_RULE)
    world.standin.plan(refusal)

    names = [answered(world.client.exec(f"say echo:{word}"), word) for word in ("apple", "plum")]

    assert names == ["two", "two"]
    refused = [seen for seen in world.standin.requests(RESPONSES, "one") if seen.status == 401]
    assert len(refused) == 1


def test_a_model_that_one_account_lacks_goes_unseen(make: Make, transport: str) -> None:
    world = drain_first(make, "free", "paid", transport=transport)
    refuse_model(world, "free", transport)
    before = turns(world, "free", transport)

    names = [answered(world.client.exec(f"say echo:{word}"), word) for word in ("apple", "plum")]

    assert names == ["paid", "paid"]
    assert turns(world, "free", transport) - before <= 1


def test_a_403_without_a_reason_goes_unseen(make: Make, transport: str) -> None:
    world = drain_first(make, "one", "two", transport=transport)
    token, is_http = world.tokens[0].token, transport == "http"
    refusal = Answer(path=RESPONSES, token=token, method="POST", times=None, status=403, body=UNCLEAR)
    world.standin.plan(refusal if is_http else replace(refusal, method="", transport="message"))

    for word in ("apple", "plum"):
        assert answered(world.client.exec(f"say echo:{word}"), word) == "two"
    assert "one: 403 on codex/responses" in world.proxy.log


def test_if_every_identity_is_refused_one_line_says_so(make: Make, transport: str) -> None:
    world = drain_first(make, "one", "two", transport=transport)
    for name in ("one", "two"):
        refuse_model(world, name, transport)

    begun = time.monotonic()
    run = world.client.exec("say echo:apple")

    assert run.returncode == 1
    assert time.monotonic() - begun < 10
    assert re.search(r"one: not used for the model \S+ until|model is not supported", run.stderr), run.stderr
    assert [words for words in trouble(run) if words != "unexpected status"] == []
