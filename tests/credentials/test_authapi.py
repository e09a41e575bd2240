"""Whoami and routing discovery, asked as Codex asks them; only a refusal in JSON speaks of the token."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from codexpool.credentials import authapi
from codexpool.credentials.authapi import AuthApi, RefusedError, UndiscoveredError, place_in, whoami_of
from codexpool.credentials.http_client import Route
from codexpool.pool.identity import Metadata, Word
from codexpool.pool.verdict import DEAD_TOKEN_CODES
from codexpool.protocol.discovery import NotListedError
from codexpool.protocol.endpoints import CHATGPT
from codexpool.tokens.bearer import Bearer
from tests.running import pat
from tests.standin import CLOUDFLARE_PAGE, DISCOVERY, WHOAMI, Answer, StandIn, Token, error_body
from tests.standin.authapi import whoami as whoami_document
from tests.standin.endpoints import discovery

CLOUDFLARE_JSON = {"cloudflare_error": True, "error_code": 1020, "title": "Error 1020: Access denied"}
MITIGATED = {"cf-mitigated": "challenge"}
WORK = Metadata("acc-work", "user-work", "business")


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    gov = pat("gov", fedramp=True, origin="https://gov.chatgpt.com", routing_override="us_cr")
    with StandIn([pat("work"), gov], folder=tmp_path) as standin:
        yield standin


def api(standin: StandIn, **environ: str) -> AuthApi:
    return AuthApi(Route(f"http://127.0.0.1:{standin.proxy_port}", str(standin.ca_file)), environ)


def bearer(token: Token) -> Bearer:
    return Bearer.of(token.token)


async def test_whoami_says_whose_a_token_is(standin: StandIn) -> None:
    word, evidence, metadata = await api(standin).whoami(bearer(pat("work")))
    assert (word, metadata, evidence.status) == (Word.HEALTHY, WORK, 200)
    assert metadata is not None
    assert metadata.email == "user-work@example.invalid"
    [seen] = standin.requests(WHOAMI)
    assert seen.header("chatgpt-account-id") is None
    assert (seen.host, seen.method) == ("auth.openai.com", "GET")


async def test_whoami_may_be_elsewhere_as_codex_lets_one_say(standin: StandIn) -> None:
    word, evidence, _ = await api(standin, CODEX_AUTHAPI_BASE_URL=" https://auth.openai.com/other/ ").whoami(
        bearer(pat("work"))
    )
    assert word is Word.UNREACHABLE
    assert "404" in str(evidence)
    assert [seen.path for seen in standin.seen] == ["/other/v1/user-auth-credential/whoami"]


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        *((Answer(status=401, body=error_body(code, "no")), Word.REFUSED) for code in DEAD_TOKEN_CODES),
        (Answer(status=401, body=error_body("TOKEN_REVOKED", "no")), Word.REFUSED),
        (Answer(status=403, body=error_body("token_revoked", "no")), Word.UNREACHABLE),
        (Answer(status=403, body=error_body("ip_not_authorized", "no")), Word.UNREACHABLE),
        (Answer(status=403, body=CLOUDFLARE_JSON), Word.UNREACHABLE),
        (Answer(status=401, body=CLOUDFLARE_JSON), Word.UNREACHABLE),
        (Answer(status=401, headers=MITIGATED, body=error_body("token_revoked", "no")), Word.UNREACHABLE),
        (Answer(status=401, body=error_body("proxy_authentication", "no")), Word.UNREACHABLE),
        (Answer(status=401, body={"detail": "Unauthorized"}), Word.UNREACHABLE),
        (Answer(status=401, body=["token_revoked"]), Word.UNREACHABLE),
        (Answer(status=403, body=error_body("unsupported_country_region_territory", "no")), Word.UNREACHABLE),
        (Answer(status=401, body=CLOUDFLARE_PAGE), Word.UNREACHABLE),
        (Answer(status=401, body=b""), Word.UNREACHABLE),
        (Answer(status=404, body=error_body("not_found", "no")), Word.UNREACHABLE),
        (Answer(status=500, body=error_body("oops", "no")), Word.UNREACHABLE),
        (Answer(status=200, body={"chatgpt_account_id": "a"}), Word.UNREACHABLE),
        (Answer(cut="head"), Word.UNREACHABLE),
        (Answer(delay=5.0), Word.UNREACHABLE),
    ],
)
async def test_only_a_refusal_in_json_speaks_of_the_token(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, answer: Answer, word: Word
) -> None:
    monkeypatch.setattr(authapi, "TIMEOUT", 1.0)
    standin.plan(replace(answer, path=WHOAMI))
    said = await api(standin).whoami(bearer(pat("work")))
    assert said.word is word
    assert said.metadata is None
    assert "at-test" not in str(said)


BOUNDLESS = {
    "drips": Answer(status=200, body=b" ", endless=0.1),
    "drips a refusal": Answer(status=401, body=b"{", endless=0.1),
    "without end": Answer(status=200, body=b" " * 60_000, endless=0.0),
    "a bomb": Answer(status=200, headers={"content-encoding": "gzip"}, body=gzip.compress(b" " * 100_000_000)),
    "no encoding of ours": Answer(status=200, headers={"content-encoding": "br"}, body=b"xx"),
}


@pytest.mark.parametrize("how", BOUNDLESS)
async def test_an_answer_without_an_end_is_given_up_within_its_time(
    standin: StandIn, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(authapi, "TIMEOUT", 1.0)
    client = api(standin)
    for path in (WHOAMI, DISCOVERY):
        standin.plan(replace(BOUNDLESS[how], path=path))

    async with asyncio.timeout(20):
        said = await client.whoami(bearer(pat("work")))
        with pytest.raises(UndiscoveredError, match="cannot be reached"):
            await client.routing(bearer(pat("work")), WORK)

    assert said.word is Word.UNREACHABLE
    assert str(said.evidence).startswith("whoami cannot be reached")
    # and it is asked again as if nothing had been
    assert (await client.whoami(bearer(pat("work")))).word is Word.HEALTHY
    assert await client.routing(bearer(pat("work")), WORK) == WORK


async def test_an_answer_that_is_compressed_is_read(standin: StandIn) -> None:
    body = gzip.compress(json.dumps(whoami_document(pat("work"))).encode())
    standin.plan(Answer(path=WHOAMI, status=200, headers={"content-encoding": "gzip"}, body=body))

    said = await api(standin).whoami(bearer(pat("work")))

    assert (said.word, said.metadata) == (Word.HEALTHY, WORK)


async def test_no_cookie_of_one_identity_is_sent_for_the_next(standin: StandIn) -> None:
    standin.plan(
        Answer(path=WHOAMI, status=500, headers={"set-cookie": "who=work; Domain=openai.com; Path=/"}, body={"x": 1})
    )
    client = api(standin)
    await client.whoami(bearer(pat("work")))
    await client.whoami(bearer(pat("gov")))
    assert [seen.header("cookie") for seen in standin.seen] == [None, None]


async def test_an_address_that_is_none_is_told() -> None:
    word, evidence, _ = await AuthApi(Route(), {"CODEX_AUTHAPI_BASE_URL": "https://x:port"}).whoami(
        bearer(pat("work"))
    )
    assert word is Word.UNREACHABLE
    assert "cannot be reached (InvalidURL)" in str(evidence)


async def test_routing_discovery_says_where_a_workspace_is_served_from(standin: StandIn) -> None:
    gov = Metadata("acc-gov", "user-gov", "business", fedramp=True)
    found = await api(standin).routing(bearer(pat("gov")), gov)
    assert (found.origin, found.routing_override) == ("https://gov.chatgpt.com", "us_cr")
    found = await api(standin).routing(bearer(pat("work")), WORK)
    assert (found.origin, found.routing_override) == (CHATGPT, None)
    assert standin.refusals == []


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_without_an_answer_nothing_is_assumed(standin: StandIn, status: int) -> None:
    standin.plan(Answer(path=DISCOVERY, status=status, body=error_body("busy", "later")))
    with pytest.raises(UndiscoveredError, match=str(status)):
        await api(standin).routing(bearer(pat("work")), WORK)


KNOWN = replace(WORK, origin="https://gov.chatgpt.com", routing_override="us_cr")
"""A workspace whose place was found before."""


def entry(**more: str) -> dict[str, object]:
    document = discovery(pat("work"))
    return {**document, "accounts": [{**document["accounts"][0], **more}]}


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (404, {}, error_body("not_found", "no")),
        (401, {}, error_body("no_matching_rule", "not with this credential")),
    ],
)
def test_no_discovery_for_a_credential_keeps_its_place(status: int, headers: dict[str, str], body: object) -> None:
    assert place_in(httpx.Response(status, headers=headers, json=body), KNOWN) == KNOWN


@pytest.mark.parametrize(
    ("status", "headers", "body", "error"),
    [
        (401, {}, error_body("token_revoked", "no"), RefusedError),
        (401, {}, error_body("proxy_unauthorized", "no"), UndiscoveredError),
        (401, {}, {"detail": "Unauthorized"}, UndiscoveredError),
        (401, MITIGATED, error_body("token_revoked", "no"), UndiscoveredError),
        (403, {}, CLOUDFLARE_JSON, UndiscoveredError),
        (403, {}, error_body("token_revoked", "no"), UndiscoveredError),
        (400, {}, error_body("bad_request", "no"), UndiscoveredError),
        (200, {}, {}, UndiscoveredError),
        (200, {}, [], UndiscoveredError),
        (200, MITIGATED, entry(), UndiscoveredError),
        (200, {}, entry(workspace_backend_origin="http://chatgpt.com"), UndiscoveredError),
        (200, {}, entry(workspace_backend_origin="https://chatgpt.com:8443"), UndiscoveredError),
        (200, {}, entry(workspace_backend_origin="https://x/" + 10_000 * "y"), UndiscoveredError),
        (200, {}, entry(id="acc-elsewhere"), NotListedError),
    ],
)
def test_of_discovery_too_only_the_backends_own_word_is_one(
    status: int, headers: dict[str, str], body: object, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        place_in(httpx.Response(status, headers=headers, json=body), KNOWN)
    assert len(str(raised.value)) < 300


async def test_a_hanging_resolver_takes_no_thread_of_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given: many identities, and a name that is not resolved
    answers, resolve = threading.Event(), socket.getaddrinfo
    waiting: list[str] = []

    def slow(host: str, *arguments: object, **more: object) -> object:
        if host == "whoami.invalid":
            waiting.append(host)
            answers.wait(20)
            raise socket.gaierror(-2, "Name or service not known")
        return resolve(host, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    asked = AuthApi(Route(), {"CODEX_AUTHAPI_BASE_URL": "https://whoami.invalid"})
    asking = [asyncio.create_task(asked.whoami(Bearer.of(f"at-test-{n}"))) for n in range(40)]
    while len(waiting) < 40:  # noqa: ASYNC110
        await asyncio.sleep(0.01)

    # when: a connection of a client needs a name
    found = await asyncio.wait_for(asyncio.get_running_loop().getaddrinfo("localhost", 443), 5)

    answers.set()
    assert found
    words = await asyncio.gather(*asking)
    assert {(word, evidence.note) for word, evidence, _ in words} == {
        (Word.UNREACHABLE, "whoami cannot be reached (its name has no address; is this machine online?)")
    }


async def test_each_address_of_a_name_is_tried(standin: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    def several(host: str, port: int, *_: object, **__: object) -> object:
        return [(2, 1, 6, "", (address, port)) for address in ("127.0.0.2", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", several)
    route = Route(f"http://proxy.invalid:{standin.proxy_port}", str(standin.ca_file))
    assert (await AuthApi(route, {}).whoami(bearer(pat("work")))).word is Word.HEALTHY


@pytest.mark.parametrize("status", [200, 401, 403])
def test_an_answer_that_is_nested_too_deep_is_none(status: int) -> None:
    deep = httpx.Response(status, content=b"[" * 200_000)

    assert whoami_of(deep, bearer(pat("work")), 1.0).word is Word.UNREACHABLE
    with pytest.raises(UndiscoveredError):
        place_in(deep, WORK)


@pytest.mark.parametrize("account", ["acc-\ud800", "acc-work\r\nx-more: 1", "acc-\u00e9"])
def test_what_cannot_be_sent_in_a_header_is_nobodys_account(account: str) -> None:
    document = {**whoami_document(pat("work")), "chatgpt_account_id": account}
    answer = whoami_of(httpx.Response(200, content=json.dumps(document)), bearer(pat("work")), 1.0)

    assert (answer.word, answer.metadata) == (Word.UNREACHABLE, None)


def test_a_routing_override_that_cannot_be_sent_is_no_answer() -> None:
    document = discovery(pat("work", routing_override="us\r\nauthorization: Bearer x"))
    with pytest.raises(UndiscoveredError, match="cannot be sent"):
        place_in(httpx.Response(200, content=json.dumps(document)), WORK)
