"""Made-up secrets of all kinds, and the places where such things are found."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote

from hypothesis import strategies as st
from mitmproxy import http

from tests.recording.flows import a_flow, a_socket
from tests.standin.logins import make_jwt

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
SIGNS = LETTERS + "0123456789"


def _opaque(least: int, most: int = 48, signs: str = SIGNS) -> st.SearchStrategy[str]:
    """Characters as a machine makes them: letters of both cases, and digits."""
    return st.tuples(st.text(signs, min_size=least - 4, max_size=most), st.permutations("aB3k")).map(
        lambda pair: pair[0] + "".join(pair[1])
    )


uuids = st.uuids(version=4).map(str) | st.uuids(version=4).map(lambda value: str(value).upper())
pats = _opaque(24).map("at-{}".format)
refresh_tokens = _opaque(24).map("rt_{}".format)
api_keys = _opaque(32).map("sk-proj-{}".format) | _opaque(30, 36).map("ghp_{}".format)
aws_keys = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=16, max_size=16).map("AKIA{}".format)
emails = st.builds(
    "{}@{}.{}".format,
    st.text("abcdefghijklmnopqrstuvwxyz0123456789._", min_size=3, max_size=16).filter(lambda s: s.strip("._") == s),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=12),
    st.sampled_from(["com", "org", "io", "de"]),
)
users = _opaque(24, 24).map("user-{}".format)
accounts = uuids | _opaque(8, 12, "abcdefghijklmnopqrstuvwxyz0123456789").map("acc-{}".format)
bearers = _opaque(32)
homes = st.text("abcdefghijklmnopqrstuvwxyz", min_size=7, max_size=12).map("qz{}".format)
cookies = _opaque(20)
passwords = _opaque(12)


@st.composite
def jwts(draw: st.DrawFn) -> str:
    claims = {
        "iss": "https://auth.openai.com",
        "exp": draw(st.integers(1_700_000_000, 1_900_000_000)),
        "email": draw(emails),
        "sub": draw(_opaque(20)),
        "name": draw(homes).title(),
        "https://api.openai.com/auth": {
            "chatgpt_account_id": draw(uuids),
            "chatgpt_user_id": draw(users),
            "chatgpt_plan_type": "business",
        },
    }
    return make_jwt(claims)


def inside(jwt: str) -> list[str]:
    """What a JWT says of its bearer."""
    payload = jwt.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    auth = claims["https://api.openai.com/auth"]
    return [claims["email"], claims["sub"], claims["name"], auth["chatgpt_account_id"], auth["chatgpt_user_id"]]


anything = st.one_of(pats, refresh_tokens, api_keys, aws_keys, emails, users, uuids, jwts())
"""What is private by its looks alone."""


class Planted(NamedTuple):
    """A flow with a secret in it, and where."""

    flow: http.HTTPFlow
    where: str


Place = Callable[[str], http.HTTPFlow]


def _events(*documents: dict[str, Any]) -> str:
    return "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in documents)


def _delta(piece: str) -> dict[str, Any]:
    return {"type": "response.output_text.delta", "item_id": "msg_1", "output_index": 0, "delta": piece}


def _in_pieces(value: str) -> list[dict[str, Any]]:
    text = f"it is {value} indeed"
    return [_delta(text[at : at + 5]) for at in range(0, len(text), 5)]


JSON = (("content-type", "application/json"),)
SSE = (("content-type", "text/event-stream"),)
FORM = (("content-type", "application/x-www-form-urlencoded"),)


def a_socket_closed(reason: str) -> http.HTTPFlow:
    made = a_socket([], [])
    assert made.websocket is not None
    made.websocket.close_reason = reason
    return made


def in_json(document: dict[str, Any]) -> http.HTTPFlow:
    """A flow with JSON in a header and in its body."""
    text = json.dumps(document)
    return a_flow(headers=[*JSON, ("x-codex-turn-metadata", text)], body=text)


ANYWHERE: dict[str, Place] = {
    "an unknown header": lambda value: a_flow(headers=[("x-unknown", f"see {value}")]),
    "a header of the answer": lambda value: a_flow(answer_headers=[("x-odd", value)]),
    "a header with JSON": lambda value: a_flow(headers=[("x-codex-turn-metadata", json.dumps({"note": value}))]),
    "a path": lambda value: a_flow(f"/backend-api/things/{quote(value, safe='')}/x"),
    "a query": lambda value: a_flow(f"/backend-api/x?q={quote(value, safe='')}&limit=2"),
    "JSON": lambda value: a_flow(headers=JSON, body=json.dumps({"input": [{"text": f"he said {value}."}]})),
    "JSON within JSON": lambda value: a_flow(headers=JSON, body=json.dumps({"args": json.dumps({"x": [value]})})),
    "a key of JSON": lambda value: a_flow(headers=JSON, body=json.dumps({"accounts": {value: {"plan": "x"}}})),
    "JSON in zstd": lambda value: a_flow(
        headers=[*JSON, ("content-encoding", "zstd")], body=json.dumps({"input": f"this is {value} then"})
    ),
    "JSON in gzip": lambda value: a_flow(
        answer_headers=[*JSON, ("content-encoding", "gzip")], answer=json.dumps({"error": {"message": value}})
    ),
    "JSON in brotli": lambda value: a_flow(
        answer_headers=[*JSON, ("content-encoding", "br")], answer=json.dumps({"detail": f"bad {value}"})
    ),
    "broken JSON": lambda value: a_flow(headers=JSON, body=json.dumps({"a": f"x {value} y", "b": 1})[:-2]),
    "a form": lambda value: a_flow(headers=FORM, body=f"a=b&text={quote(value, safe='')}"),
    "plain text": lambda value: a_flow(answer=f"<p>The thing is {value}, or so.</p>\n"),
    "events": lambda value: a_flow(answer_headers=SSE, answer=_events({"type": "x", "text": value}, _delta("hi"))),
    "events in pieces": lambda value: a_flow(answer_headers=SSE, answer=_events(*_in_pieces(value))),
    "a message of the client": lambda value: a_socket([json.dumps({"type": "response.create", "input": value})], []),
    "messages of the server": lambda value: a_socket([], [json.dumps(one) for one in _in_pieces(value)]),
    "an error": lambda value: a_flow(status=None, error=f"something is wrong with {value}: giving up"),
    "base64 in a header": lambda value: a_flow(
        status=401, answer_headers=[("x-error-json", base64.b64encode(json.dumps({"m": value}).encode()).decode())]
    ),
    "a known header": lambda value: a_flow(headers=[("user-agent", f"x ({value})")]),
    "the reason of a close": lambda value: a_socket_closed(f"because of {value}"),
    "a fragment": lambda value: a_flow(f"/backend-api/x#{value}"),
    "a comment": lambda value: a_flow(comment=f"codexpool: work, attempt 2 (spare: 401 {value})"),
    "the trace": lambda value: a_flow(
        metadata={"codexpool": {"answer": {"message": f"said {value}"}, "attempts": [{"evidence": value}]}}
    ),
}
"""Places for what is private by its looks."""

NAMED: dict[str, tuple[st.SearchStrategy[str], Place]] = {
    "bearer": (bearers, lambda value: a_flow(headers=[("authorization", f"Bearer {value}")])),
    "another scheme": (bearers, lambda value: a_flow(headers=[("Authorization", f"AgentAssertion {value}")])),
    "no scheme": (bearers, lambda value: a_flow(headers=[("x-api-key", value)])),
    "cookie": (cookies, lambda value: a_flow(headers=[("cookie", f"theme=dark; __cf_bm={value}; a=1")])),
    "set-cookie": (cookies, lambda value: a_flow(answer_headers=[("set-cookie", f"sid={value}; Path=/; HttpOnly")])),
    "quoted cookie": (cookies, lambda value: a_flow(headers=[("cookie", f'sid="{value}"')])),
    "password": (passwords, lambda value: in_json({"password": value})),
    "basic": (
        passwords,
        lambda value: a_flow(
            headers=[("authorization", "Basic " + base64.b64encode(f"somebody:{value}".encode()).decode())]
        ),
    ),
    "account header": (accounts, lambda value: a_flow(headers=[("chatgpt-account-id", value)])),
    "account field": (accounts, lambda value: in_json({"account_id": value})),
    "accounts": (
        accounts,
        lambda value: a_flow(
            "/backend-api/wham/accounts/check",
            method="GET",
            answer_headers=JSON,
            answer=json.dumps({"accounts": [{"id": value, "plan_type": "x"}], "account_ordering": [value]}),
        ),
    ),
    "user field": (accounts, lambda value: in_json({"user": {"id": value}})),
    "user parameter": (accounts, lambda value: a_flow(f"/backend-api/x?user_id={quote(value)}")),
    "installation": (uuids, lambda value: a_flow(headers=[("x-codex-installation-id", value)])),
    "session": (cookies, lambda value: a_flow(headers=[("thread-id", value)])),
    "home": (homes, lambda value: in_json({"cwd": f"/home/{value}/work"})),
    "home of a Mac": (homes, lambda value: a_flow(status=None, error=f"no such file: /Users/{value}/x.py")),
    "home of Windows": (homes, lambda value: in_json({"x": f"C:\\Users\\{value}\\y"})),
    "token parameter": (bearers, lambda value: a_flow(f"/backend-api/x?access_token={value}")),
    "form": (
        bearers,
        lambda value: a_flow("/oauth/token", headers=FORM, body=f"grant_type=x&refresh_token={value}&client_id=c"),
    ),
    "identity": (
        homes.map("{}-private".format),
        lambda value: a_flow(
            headers=[("authorization", f"Bearer <codexpool:{value}>")], comment=f"codexpool: {value}, attempt 1"
        ),
    ),
    "message": (
        bearers,
        lambda value: a_socket([json.dumps({"type": "response.create", "client_metadata": {"token": value}})], []),
    ),
}
"""What is private because of its name: what it is like, and where it has that name."""

REPEATED: tuple[Place, ...] = (
    lambda value: a_flow(answer=f"and later {value} comes again, in ({value})"),
    lambda value: a_flow(f"/backend-api/x/{quote(value, safe='')}"),
    lambda value: a_flow(headers=JSON, body=json.dumps({"text": f"prose with {value} in it"})),
    lambda value: a_flow(headers=[("x-odd", f"a={quote(value, safe='')}")]),
    lambda value: a_flow(answer=base64.b64encode(f"ab {value} cd".encode()).decode()),
    lambda value: a_flow(status=None, error=f"lost: {value}!"),
    lambda value: a_flow(headers=[("user-agent", f"x ({value}) y")]),
    lambda value: a_flow(metadata={"codexpool": {"answer": {"message": f"said {value}"}}}),
    lambda value: a_socket([], [json.dumps({"type": "error", "message": value})]),
)
"""Places where a value is repeated that was named elsewhere, before or after."""
