"""Checks the client's variables and settings: whether they lead to the proxy, and to the backend through it."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from typing import Final
from urllib.parse import unquote, urlsplit

from codexpool.common.addresses import is_loopback
from codexpool.config.checks import SEPARATOR, name_problem
from codexpool.credentials import PREFIX
from codexpool.doctor.environment import CONFIG, DOTENV, HOSTS, WORKLOAD, ClientEnvironment, bypasses, without_bypass
from codexpool.doctor.findings import Finding, note, ok, wrong
from codexpool.protocol.endpoints import HOST
from codexpool.redaction import redact_text
from codexpool.tokens.bearer import fingerprint
from codexpool.tokens.member_key import PREFIX as MEMBER_PREFIX

ABOUT: Final = "client"
AUTH_HOST: Final = HOSTS[1]
BUILT_IN: Final = "openai"  # Codex's model provider for ChatGPT
# By how they begin; a member key also begins as a personal access token does.
KINDS: Final = {MEMBER_PREFIX: "a member key", PREFIX: "a personal access token", "eyJ": "a JWT", "sk-": "an API key"}
Place = tuple[str, int]  # Host and port.


def findings(
    client: ClientEnvironment, here: Place, listens: Sequence[Place] = (), identities: Collection[str] = ()
) -> Iterator[Finding]:
    """Check everything. ``here`` is where the proxy was asked, ``listens`` and ``identities`` are what it reports."""
    yield of_proxy(client, here, listens)
    if identities:
        yield from of_identity(client, identities)
    yield from of_bypass(client)
    yield from of_workload_identity(client)
    yield from of_credentials(client)
    yield from of_the_rest(client)
    yield from of_config(client)


def of_proxy(client: ClientEnvironment, here: Place, listens: Sequence[Place]) -> Finding:
    name, value = client.proxy_variable()
    wanted = f"export HTTPS_PROXY=http://{_shown(here)}"
    if not name:
        text = "HTTPS_PROXY is not set: a client started from here connects to the backend directly"
        return wrong(ABOUT, text, f'{wanted}, or: eval "$(codexpool env)"')
    place = place_of(value)
    if place is None:
        return wrong(ABOUT, f"{client.where(name)} is not the URL of an HTTP proxy", wanted)
    if any(_is_same(place, other) for other in (here, *listens)):
        return ok(ABOUT, f"{client.where(name)} leads to this proxy ({_shown(place)})")
    text = f"{client.where(name)} leads to {_shown(place)}, but the proxy checked here is {_shown(here)}"
    return wrong(ABOUT, text, f"{wanted}; or check the other one: codexpool doctor --proxy http://{_shown(place)}")


def of_identity(client: ClientEnvironment, identities: Collection[str]) -> Iterator[Finding]:
    """Check the identity that the proxy's URL names (`codexpool env --identity`), if it names one."""
    variable, value = client.proxy_variable()
    try:
        url = urlsplit(value if "://" in value else f"http://{value}")
        user, password = unquote(url.username or ""), url.password
    except ValueError:
        return
    name = user.rpartition(SEPARATOR)[2] if password else user
    if name in identities:
        yield ok(
            ABOUT, f"{client.where(variable)} names the identity {name}: no other serves clients started from here"
        )
    elif user and not password:
        shown = name if name_problem(name) is None else "no valid name"
        text = f"{client.where(variable)} names an identity that the pool does not have: {shown}"
        yield wrong(ABOUT, text, "codexpool list shows which it has; or remove the user from the URL")


def of_bypass(client: ClientEnvironment) -> Iterator[Finding]:
    """Check whether ``NO_PROXY`` sends a host past the proxy."""
    name, value = client.first("NO_PROXY", "no_proxy")
    entries = {host: entry for host in HOSTS if (entry := bypasses(value, host))}
    for host, entry in entries.items():
        effect = "nothing is swapped" if host == HOST else "member keys cannot be verified"
        text = f'{client.where(name)} has "{redact_text(entry)}", so {host} bypasses the proxy: {effect}'
        yield wrong(ABOUT, text, _without_bypass(client, name, value))
    if value and not entries:
        yield ok(ABOUT, f"{client.where(name)} excludes neither {HOST} nor {AUTH_HOST}")


def _without_bypass(client: ClientEnvironment, name: str, value: str) -> str:
    """Return the command that sets ``NO_PROXY`` to what does no harm."""
    rest = without_bypass(value)
    if name in client.from_dotenv:
        return f"change it there to {name}={rest}" if rest else f"remove {name} there"
    return f"export {name}={shlex.quote(rest)}" if rest else f"unset {name}"


def of_workload_identity(client: ClientEnvironment) -> Iterator[Finding]:
    """Check the variables of a workload identity, which win over all other credentials."""
    names = [name for name in WORKLOAD if name in client.variables]
    if not names:
        return
    text = f"{', '.join(map(client.where, names))}: with this the client uses a workload identity"
    here = [name for name in names if name not in client.from_dotenv]
    steps = [f"unset {' '.join(here)}"] if here else []
    if len(here) < len(names):
        steps.append(f"remove what is in {client.home / DOTENV}")
    if client.variables.get("CODEX_ACCESS_TOKEN", "").strip():
        yield wrong(ABOUT, f"{text}, and ignores CODEX_ACCESS_TOKEN", " and ".join(steps))
    else:
        yield note(ABOUT, f"{text} before any login, and ends if a variable is missing", " and ".join(steps))


def of_credentials(client: ClientEnvironment) -> Iterator[Finding]:
    if client.variables.get("CODEX_API_KEY", "").strip():
        text = "CODEX_API_KEY is set: codex exec then uses api.openai.com, which the pool does not serve"
        yield wrong(ABOUT, text, "unset CODEX_API_KEY")
    token = client.variables.get("CODEX_ACCESS_TOKEN", "").strip()
    if not token:
        return
    kind = next((kind for prefix, kind in KINDS.items() if token.startswith(prefix)), "a token of no known kind")
    text = f"CODEX_ACCESS_TOKEN is {kind}, sha256:{fingerprint(token)}"
    if token.startswith(PREFIX):
        yield ok(ABOUT, f"{text}; the probe sends it")
    else:
        text += f": the client takes a token that does not begin with {PREFIX} for an agent identity, and fails"
        yield wrong(ABOUT, text, "set it to a member key or a personal access token, or: unset CODEX_ACCESS_TOKEN")


def of_the_rest(client: ClientEnvironment) -> Iterator[Finding]:
    """Check other variables that change where the client connects."""
    if client.variables.get("CODEX_SANDBOX") == "seatbelt":
        text = "CODEX_SANDBOX=seatbelt is set: the client then uses no proxy"
        yield wrong(ABOUT, text, "start it from your own shell, not from within a Codex sandbox")
    base = client.variables.get("CODEX_AUTHAPI_BASE_URL", "").strip()
    if base and _host(base) != AUTH_HOST:
        text = f"CODEX_AUTHAPI_BASE_URL sends whoami to {redact_text(_host(base)) or 'no host'}"
        yield wrong(ABOUT, text, f"unset CODEX_AUTHAPI_BASE_URL: the proxy answers whoami at {AUTH_HOST}")
    for name in sorted(client.ignored):
        remedy = "use SSL_CERT_FILE there" if name == "CODEX_CA_CERTIFICATE" else "set it in the environment"
        yield note(ABOUT, f"the client ignores {name} in {client.home / DOTENV}, like all names with CODEX_", remedy)


def of_config(client: ClientEnvironment) -> Iterator[Finding]:
    """Check the settings in ``config.toml`` that change where the client connects."""
    path = client.home / CONFIG
    if client.broken:
        yield wrong(ABOUT, f"{path} is not TOML: {redact_text(client.broken)}", "fix it: the client does not start")
        return
    for key in ("chatgpt_base_url", "openai_base_url"):
        base = client.config.get(key)
        if isinstance(base, str) and base.strip() and _host(base) != HOST:
            yield wrong(
                ABOUT, f"{key} in {path} leads to {redact_text(_host(base)) or 'no host'}", f"remove {key} there"
            )
    provider = client.config.get("model_provider", BUILT_IN)
    providers = client.config.get("model_providers")
    entry = providers.get(str(provider)) if isinstance(providers, dict) else None
    base = str(entry.get("base_url")) if isinstance(entry, dict) else ""
    if provider != BUILT_IN and _host(base) != HOST:
        text = f'model_provider in {path} is "{redact_text(str(provider))}", which does not use {HOST}'
        yield wrong(ABOUT, text, f'remove it there, or start the client with -c model_provider="{BUILT_IN}"')


def place_of(proxy: str) -> Place | None:
    """Return host and port of a proxy as the client reads them; None if it is not an HTTP proxy."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and parts.scheme in ("http", "https") else None


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
