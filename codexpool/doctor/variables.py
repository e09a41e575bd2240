"""The client's variables and settings: do they lead it to the proxy, as itself, and to the backend. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from codexpool.common.addresses import is_loopback
from codexpool.credentials.pat import PREFIX
from codexpool.doctor.bypass import NO, bypasses, proxy_variable
from codexpool.doctor.environment import CONFIG, DOTENV, ClientEnvironment
from codexpool.doctor.findings import Finding, note, ok, token_in_words, wrong
from codexpool.protocol.endpoints import AUTHAPI, HOST
from codexpool.redaction import redact_text

ABOUT: Final = "client"

AUTH_HOST: Final = urlsplit(AUTHAPI).hostname or ""

BUILT_IN: Final = "openai"
"""The provider of Codex that speaks to ChatGPT."""

Place = tuple[str, int]
"""Host and port."""


def findings(client: ClientEnvironment, here: Place, listens: Sequence[Place] = ()) -> Iterator[Finding]:
    """All of them. ``here`` is where the proxy was asked, ``listens`` where else it says that it listens."""
    yield from of_proxy(client, here, listens)
    yield from of_bypass(client)
    yield from of_credentials(client)
    yield from of_the_rest(client)
    yield from of_config(client)


def of_proxy(client: ClientEnvironment, here: Place, listens: Sequence[Place]) -> Iterator[Finding]:
    """Does the client take this proxy."""
    name, value = proxy_variable(client)
    wanted = f"HTTPS_PROXY=http://{_shown(here)}"
    if not name:
        yield wrong(
            ABOUT,
            "no HTTPS_PROXY: a client started from here speaks to the backend directly",
            f'export {wanted}, or: eval "$(codexpool env)"',
        )
        return
    place = place_of(value)
    if place is None:
        yield wrong(ABOUT, f"{client.where(name)} names no http:// proxy", f"export {wanted}")
    elif any(_is_same(place, other) for other in (here, *listens)):
        yield ok(ABOUT, f"{client.where(name)} leads to this proxy ({_shown(place)})")
    else:
        yield wrong(
            ABOUT,
            f"{client.where(name)} leads to {_shown(place)}, and the proxy looked at here is {_shown(here)}",
            f"export {wanted}; or look at the other one: codexpool doctor --proxy http://{_shown(place)}",
        )


def of_bypass(client: ClientEnvironment) -> Iterator[Finding]:
    """Does ``NO_PROXY`` let a host slip by."""
    name, value = client.first(*NO)
    by_host = {host: bypasses(value, host) for host in (HOST, AUTH_HOST)}
    for host, entry in by_host.items():
        if entry:
            what = "nothing is swapped" if host == HOST else "the proxy cannot answer for a member key"
            yield wrong(
                ABOUT,
                f'{client.where(name)} has "{redact_text(entry)}", which leads {host} past the proxy: {what}',
                "take that entry out",
            )
    if value and not any(by_host.values()):
        yield ok(ABOUT, f"{client.where(name)} lets neither {HOST} nor {AUTH_HOST} slip by")


def of_credentials(client: ClientEnvironment) -> Iterator[Finding]:
    """Whom the client speaks as."""
    if client.variables.get("CODEX_API_KEY", "").strip():
        yield wrong(
            ABOUT,
            "CODEX_API_KEY is set: codex exec then speaks to api.openai.com, which the pool never serves",
            "unset CODEX_API_KEY",
        )
    token = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    if not token:
        return
    if token.startswith(PREFIX):
        yield ok(ABOUT, f"CODEX_ACCESS_TOKEN is {token_in_words(token)}; the probe sends it")
    else:
        yield wrong(
            ABOUT,
            f"CODEX_ACCESS_TOKEN is {token_in_words(token)}: what does not begin with {PREFIX} the client takes for "
            "an agent identity, and fails",
            "set it to a member key or a personal access token, or unset it",
        )


def of_the_rest(client: ClientEnvironment) -> Iterator[Finding]:
    """What else changes where it speaks to."""
    if client.variables.get("CODEX_SANDBOX") == "seatbelt":
        yield wrong(
            ABOUT,
            "CODEX_SANDBOX=seatbelt: the client then takes no proxy at all",
            "start it from a shell of your own, not from within a sandbox of Codex",
        )
    if "REQUEST_METHOD" in client.variables:
        yield wrong(
            ABOUT,
            "REQUEST_METHOD is set: the client takes itself for a CGI program, and reads no proxy variable",
            "unset REQUEST_METHOD",
        )
    base = client.variables.get("CODEX_AUTHAPI_BASE_URL", "").strip()
    if base and _host(base) != AUTH_HOST:
        yield wrong(
            ABOUT,
            f"CODEX_AUTHAPI_BASE_URL leads whoami to {redact_text(_host(base)) or 'no host'}",
            f"unset it: whoami belongs to {AUTH_HOST}, where the proxy answers for member keys",
        )
    for name in sorted(client.ignored):
        yield note(
            ABOUT,
            f"{name} in {client.home / DOTENV} is ignored by the client, as all that begins with CODEX_",
            "SSL_CERT_FILE does the same there" if name == "CODEX_CA_CERTIFICATE" else "set it in the environment",
        )


def of_config(client: ClientEnvironment) -> Iterator[Finding]:
    """What ``config.toml`` says that leads elsewhere."""
    path = client.home / CONFIG
    if client.broken:
        yield wrong(
            ABOUT, f"{path} is not TOML: {redact_text(client.broken)}", "correct it; the client does not start"
        )
        return
    for key in ("chatgpt_base_url", "openai_base_url"):
        base = client.config.get(key)
        if isinstance(base, str) and base.strip() and _host(base) != HOST:
            yield wrong(
                ABOUT, f"{key} in {path} leads to {redact_text(_host(base)) or 'no host'}", f"take {key} out of it"
            )
    provider = client.config.get("model_provider", BUILT_IN)
    if provider != BUILT_IN and not _leads_to_the_backend(client.config, provider):
        yield wrong(
            ABOUT,
            f'model_provider in {path} is "{redact_text(str(provider))}", which does not speak to {HOST}',
            f'take it out, or start the client with -c model_provider="{BUILT_IN}"',
        )


def place_of(proxy: str) -> Place | None:
    """Host and port of a proxy as the client reads them; None for what is no HTTP proxy."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and parts.scheme in ("http", "https") else None


def _leads_to_the_backend(config: Mapping[str, object], provider: object) -> bool:
    match config.get("model_providers"):
        case {**providers}:
            match providers.get(str(provider)):
                case {"base_url": str(base)}:
                    return _host(base) == HOST
    return False


def _is_same(one: Place, other: Place) -> bool:
    if one[1] != other[1]:
        return False
    hosts = one[0].lower(), other[0].lower()
    return hosts[0] == hosts[1] or all(map(is_loopback, hosts))


def _host(url: str) -> str:
    try:
        return (urlsplit(url.strip()).hostname or "").lower()
    except ValueError:
        return ""


def _shown(place: Place) -> str:
    host = f"[{place[0]}]" if ":" in place[0] else place[0]
    return redact_text(f"{host}:{place[1]}")
