"""From the start of the proxy to its first answer, and what it refuses to start with."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from codexpool.common.private_files import private_folder
from codexpool.pool.patience import PATIENCE
from tests.e2e.conftest import OLD, Make
from tests.e2e.world import MODEL, E2EProxy, copied_entry, served_by
from tests.running import CLIENT, pat, pool_toml
from tests.standin import DISCOVERY, WHOAMI, Answer, StandIn, Token

MISSPELT = """[[identity]]
name = "work"
token = "at-test-work-0123456789abcdef"
tokn = "at-test-misspelt-key-0123456789abcdef"
"""

HIDING = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {hidden!r} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


class Refusal(NamedTuple):
    """A start that is refused: what is prepared for it, and what its one line has to say."""

    says: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    pool: str | None = None
    """The text of pool.toml; None leaves a good one."""
    mode: int = 0o600
    hidden: tuple[str, ...] = ()
    tool: str = "mitmdump"
    configured: bool = True
    environ: Mapping[str, str] = {}


REFUSALS = {
    "no httpx": Refusal(("no httpx", "uv tool install mitmproxy", "--with httpx"), hidden=("httpx",)),
    "no sqlite3": Refusal(("no sqlite3", "uv tool install mitmproxy"), hidden=("sqlite3",)),
    # mitmproxy would drop the addon after its `load`, without a word (its issue 8013).
    "option given twice": Refusal(
        ("codexpool_config is set twice", "once"), ("--set", "codexpool_config=another.toml")
    ),
    "misspelt key": Refusal(("pool.toml:4", "tokn", "token"), pool=MISSPELT),
    "readable by others": Refusal(("pool.toml", "mode 0644", "chmod 600"), mode=0o644),
    "bodies streamed": Refusal(("stream_large_bodies", "Take the option away"), ("--set", "stream_large_bodies=1m")),
    "no WebSockets": Refusal(("websocket=false", "member keys", "Take it away"), ("--set", "websocket=false")),
    "headers unchecked": Refusal(
        ("validate_inbound_headers=false", "Authorization", "Take it away"),
        ("--set", "validate_inbound_headers=false"),
    ),
    "raw bytes logged": Refusal(("proxy_debug=true", "tokens", "Take it away"), ("--set", "proxy_debug=true")),
    "backend ignored": Refusal(("ignore_hosts", "chatgpt.com"), ("--ignore-hosts", "^chatgpt")),
}
if OLD:
    REFUSALS |= {
        "old mitmweb": Refusal(("mitmweb", "CVE-2025-23217", "uv python install 3.13"), tool="mitmweb"),
        "old on all addresses": Refusal(
            ("loopback", "GHSA-847f-9342-265h", "listen_host"), ("--listen-host", "0.0.0.0")
        ),
    }


class Started(NamedTuple):
    process: E2EProxy
    code: int


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Started]]:
    """All the refused starts, made at once: each is a process of its own."""
    folder = tmp_path_factory.mktemp("refused")
    with ExitStack() as stack:
        standin = stack.enter_context(StandIn([pat("work")], clients=[CLIENT], folder=folder))
        proxies = {}
        for number, (name, refusal) in enumerate(REFUSALS.items()):
            own = folder / str(number)
            own.mkdir()
            path = pool_toml(own, pat("work"))
            if refusal.pool is not None:
                path.write_text(refusal.pool)
            path.chmod(refusal.mode)
            environ = dict(refusal.environ)
            if refusal.hidden:
                (own / "hiding").mkdir()
                (own / "hiding" / "sitecustomize.py").write_text(HIDING.format(hidden=refusal.hidden))
                environ["PYTHONPATH"] = str(own / "hiding")
            proxies[name] = E2EProxy(
                standin,
                own,
                *refusal.arguments,
                door=False,
                environ=environ,
                tool=refusal.tool,
                configured=refusal.configured,
            )
            proxies[name].start(wait=False)
            stack.callback(proxies[name].stop)
        yield {name: Started(proxy, proxy.ends()) for name, proxy in proxies.items()}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_bad_start_is_refused_in_one_line_with_the_remedy(refused: dict[str, Started], name: str) -> None:
    proxy, code = refused[name]

    lines = [line for line in proxy.log.splitlines() if "Loading script" not in line]
    assert code == 1, proxy.log
    assert "Traceback" not in proxy.log
    ours = [line for line in lines if "codexpool: " in line]
    assert len(ours) == 1, proxy.log
    assert all(words in ours[0] for words in REFUSALS[name].says), ours
    assert "at-test-" not in proxy.log


def test_without_a_pool_nothing_is_swapped_until_there_is_one(make: Make, tmp_path: Path) -> None:
    """A warning says so."""
    # The checkout of the person who runs this may have a config/pool.toml.
    world = make(pat("work"), configured=False, ready=0, script=copied_entry(tmp_path))
    world.proxy.says("no pool.toml found, so no request is swapped")
    assert "CODEXPOOL_CONFIG" in world.proxy.log
    with world.proxy.client() as client:
        world.turn(client)

    assert [seen.header("authorization") for seen in world.seen] == [f"Bearer {CLIENT.token}"]
    assert world.whoamis() == []
    assert world.proxy.status()["pool_file"] is None

    # The first identity is added where the log says that it is looked for
    path = pool_toml(private_folder(world.proxy.folder / "xdg" / "codexpool"), pat("work"))
    world.proxy.says(f"{path} is used from now on")
    world.proxy.says("work is ready")
    with world.proxy.client() as client:
        assert served_by(world.turn(client)) == "work"
    assert world.proxy.status()["pool_file"]["path"] == str(path)


def test_one_dead_token_does_not_stop_the_rest(make: Make, tmp_path: Path) -> None:
    """One start for several promises about what is wrong with one identity only."""
    work, spare = pat("work"), pat("spare")
    twin = Token("at-test-second-token-of-work-0123456789", work.account_id, work.user_id, name="twin")
    path = tmp_path / "elsewhere.toml"
    entries = [
        ("work", f'"{work.token}"'),
        ("again", f'"{work.token}"'),
        ("unset", '{ env = "CODEXPOOL_TEST_NOT_SET" }'),
    ]
    entries += [("twin", f'"{twin.token}"'), ("spare", '{ env = "CODEXPOOL_TEST_SPARE" }')]
    path.touch(mode=0o600)
    path.write_text("".join(f'[[identity]]\nname = "{name}"\ntoken = {token}\n' for name, token in entries))
    environ = {"CODEXPOOL_CONFIG": str(path), "CODEXPOOL_TEST_SPARE": spare.token}
    world = make(work, twin, spare, configured=False, environ=environ, ready=2)

    world.proxy.says(f'{path}:6: identity[2].token: is also the token of "work"')
    world.proxy.says(f"{path}:9: identity[3].token: environment variable CODEXPOOL_TEST_NOT_SET is not set")
    world.proxy.says("twin is paused: ")
    assert "its token is of the same account and user as that of work" in world.proxy.log
    with world.proxy.client() as client:
        assert {served_by(world.turn(client, f"env-{number}")) for number in range(6)} == {"work", "spare"}
    world.check()


async def test_early_requests_wait_for_the_first_identity(make: Make) -> None:
    slow = Answer(path=WHOAMI, delay=2)
    world = make(pat("work"), plan=(slow,), ready=0)
    listening = time.monotonic()
    async with world.proxy.async_client() as client:
        body = {"model": "m", "input": "x"}
        answers = await asyncio.gather(*(client.post(MODEL, json=body) for _ in range(5)))

    assert "is ready" not in world.proxy.log[: world.proxy.log.index("client connect")]
    assert {served_by(answer) for answer in answers} == {"work"}
    assert time.monotonic() - listening < 9
    assert world.standin.leaks == []


def test_a_silent_whoami_delays_a_client_by_seconds_only(
    make: Make,
) -> None:
    """Afterwards it is asked again."""
    world = make(pat("work"), plan=(Answer(path=WHOAMI, delay=60),), ready=0)
    begun = time.monotonic()
    with world.proxy.client() as client:
        # what a client asks one after the other: the first waits, and the others hardly any longer
        discovered = client.get(f"https://chatgpt.com{DISCOVERY}")
        waited = time.monotonic() - begun
        answers = [world.turn(client) for _ in range(2)]
        in_all = time.monotonic() - begun

        assert discovered.json()["default_account_id"] == CLIENT.account_id
        assert waited > PATIENCE - 1
        assert in_all - waited < PATIENCE / 2
        assert [answer.status_code for answer in answers] == [400, 400]
        assert "work: not verified yet" in answers[0].text
        assert world.seen == []

        world.proxy.says("work stays unverified: whoami cannot be reached (no whole answer within")
        world.proxy.says("work is ready")
        assert served_by(world.turn(client)) == "work"
    assert "needs_replacement" not in world.proxy.pool.read_text()


def test_the_default_is_to_listen_on_loopback(make: Make) -> None:
    world = make(pat("work"), ready=0)
    assert addresses_of(world.proxy) == {"127.0.0.1"}


@pytest.mark.skipif(OLD, reason="refused on this version of mitmproxy, which see above")
def test_the_users_listen_host_counts(make: Make) -> None:
    world = make(pat("work"), arguments=("--listen-host", "0.0.0.0"), ready=0, wait=False)
    world.proxy.says("listening at")
    time.sleep(0.5)
    assert addresses_of(world.proxy) == {"0.0.0.0"}


def addresses_of(proxy: E2EProxy) -> set[str]:
    """The addresses a process listens on, by /proc: the kernel's word, not the log's."""
    inodes = set()
    for link in Path(f"/proc/{proxy.pid}/fd").iterdir():
        try:
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(link.readlink())))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{proxy.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                digits = fields[1].partition(":")[0]
                four = [str(byte) for byte in reversed(bytes.fromhex(digits))]
                found.add(".".join(four) if table == "tcp" else digits)
    return found
