"""What the real client sees of two proxies with one database, in a network namespace, as root.

Prints one JSON line for `test_fleet.py`: the traceback of each scenario, empty if all of it was as promised.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from codexpool.tokens.state_keys import new_key
from tests.client.fleet import AHEAD, HUB, MEMBER, Balancer, Fleet, Proxy, run
from tests.namespaced import enter
from tests.postgres import PASSWORD, Server
from tests.running import answered, member, pat, until
from tests.standin import RESPONSES, Answer, Seen, StandIn, Token

PATS = tuple(pat(name) for name in ("work", "spare", "third", "fourth"))
OWNER = Token("", "acc-shared", "user-shared", name="shared")
"""Whose login both proxies have in the database."""

BOB = "bob"
"""A member whom only that login serves."""


class Scenarios:
    """Two proxies with the same identities. The second one's clock is five minutes ahead."""

    def __init__(self, fleet: Fleet, database: Server) -> None:
        self.fleet, self.standin, self.database = fleet, fleet.standin, database
        self.first, self.second = fleet.proxies
        self.balancer = Balancer(fleet.folder, fleet.proxies)

    def sessions_keep_their_identities_on_the_other_proxy(self) -> None:
        for websockets in (True, False):
            self.standin.backend.websockets = websockets
            clients = [self.fleet.client(f"follows-{websockets}-{number}") for number in range(2)]

            served = [answered(client.turn(self.first, "say hi echo:one"), "one") for client in clients]

            assert len(set(served)) == 2
            for client, name in reversed(list(zip(clients, served, strict=True))):  # not as a pool would choose
                assert answered(client.turn(self.second, "resume", "--last", "echo:two"), "two") == name
            last = clients[0].turn(self.first, "resume", "--last", "echo:three")
            assert answered(last, "three") == served[0]
        self.standin.backend.websockets = True

    def a_token_that_dies_here_is_on_no_call_there_a_second_later(self) -> None:
        client = self.fleet.client("dies")
        name = answered(client.turn(self.first, "say hi echo:one"), "one")
        assert answered(client.turn(self.second, "resume", "--last", "echo:two"), "two") == name
        self._kill(name)

        other = answered(client.turn(self.first, "resume", "--last", "echo:three"), "three")
        noticed = min(seen.at for seen in self._calls(self.first, name) if seen.status == 401)

        assert other != name
        until(lambda: time.time() > noticed + 1, 5, "a second")
        assert answered(client.turn(self.second, "resume", "--last", "echo:four"), "four") == other
        assert answered(self.fleet.client("dies-new").turn(self.second, "say hi echo:five"), "five") != name
        late = [seen for seen in self._calls(self.second, name) if seen.at > noticed + 1]
        assert late == [], self._told(name, noticed)
        assert self._questions(name) == 1, self._told(name, noticed)

    def six_clients_with_an_expired_shared_login_cost_one_renewal(self) -> None:
        clients = [self.fleet.client(f"shared-{number}", BOB) for number in range(6)]
        renewals = self.standin.refreshes
        for token in list(self.standin.backend.pool.values()):
            if token.name == OWNER.name:
                token.expires_at = time.time() - 1

        with ThreadPoolExecutor(6) as pool:
            turns = [
                pool.submit(client.turn, proxy, "say hi echo:hello", seconds=90)
                for client, proxy in zip(clients, [self.first, self.second] * 3, strict=True)
            ]
            names = [answered(turn.result(), "hello") for turn in turns]

        assert names == [OWNER.name] * 6
        assert self.standin.refreshes == renewals + 1

    def a_proxy_without_its_database_serves_and_catches_up(self) -> None:
        known, fresh = self.fleet.client("cut-known"), self.fleet.client("cut-new")
        name = answered(known.turn(self.first, "say hi echo:one"), "one")

        # given a proxy that cannot reach the database, and a token that dies meanwhile
        self.first.machine.database_cable(plugged=False)
        self._kill(name)
        moved = answered(known.turn(self.first, "resume", "--last", "echo:two"), "two")
        begun = answered(fresh.turn(self.first, "say hi echo:one"), "one")
        assert name not in (moved, begun)
        assert answered(fresh.turn(self.first, "resume", "--last", "echo:two"), "two") == begun

        # when the database is back, then the other proxy learns what happened meanwhile
        self.first.machine.database_cable(plugged=True)
        until(lambda: f"{name} needs_replacement" in self.second.log, 60, f"word of {name} in:\n{self.second.log}")
        assert answered(known.turn(self.second, "resume", "--last", "echo:three"), "three") == moved
        assert answered(fresh.turn(self.second, "resume", "--last", "echo:three"), "three") == begun
        assert [seen for seen in self._calls(self.second, name) if seen.status == 401] == []

    def a_client_goes_on_when_its_proxy_is_killed_in_mid_turn(self) -> None:
        client = self.fleet.client("killed")
        served = answered(client.turn(self.balancer, "say hi echo:killed"), "killed")
        (mine,) = (proxy for proxy in self.fleet.proxies if self._answers(proxy, b"echo:killed", is_complete=True))
        self.standin.plan(Answer(path=RESPONSES, transport="message", times=None, pace=0.2, deltas=10))

        with ThreadPoolExecutor(1) as pool:
            turn = pool.submit(client.turn, self.balancer, "resume", "--last", "echo:two")
            until(lambda: self._answers(mine, b"echo:two", is_complete=False), 20, "the turn to be under way")
            mine.stop(signal.SIGKILL)
            ended = turn.result(90)

        self.standin.unplan()
        assert ended.returncode == 0, ended.stderr
        assert re.search(rf"answer from {served}, request \d+, two\b", ended.stdout), ended.stdout + ended.stderr

    def no_secret_is_in_a_log(self) -> None:
        database, machines = self.database.log(), "".join(proxy.whole_log for proxy in self.fleet.proxies)
        for secret in (PASSWORD, self.first.environ["CODEXPOOL_STATE_KEY"], "rt_test", "eyJ", "at-test-", "at-pool-"):
            assert secret not in database + machines, secret

    # -- helpers

    def _told(self, name: str, since: float) -> str:
        """Return the calls under an identity, with the seconds since a moment."""
        seen = [one for one in list(self.standin.seen) if one.name == name]
        return "\n".join(f"{one.at - since:.2f} s: {one.peer} {one.path} {one.status}" for one in seen)

    def _kill(self, name: str) -> None:
        self.standin.kill(next(token.token for token in PATS if token.name == name))

    def _questions(self, name: str) -> int:
        """Return how often whoami was asked about a dead token."""
        seen = [one for one in list(self.standin.seen) if one.host == "auth.openai.com" and one.name == name]
        return sum(one.status == 401 for one in seen)

    def _answers(self, proxy: Proxy, text: bytes, *, is_complete: bool) -> bool:
        """Tell whether a message that came through a proxy was answered, or is just being answered."""
        calls = [seen for seen in self._calls(proxy) if seen.transport == "message" and text in (seen.body or b"")]
        return any(seen.status == 200 and seen.complete is is_complete for seen in calls)

    def _calls(self, proxy: Proxy, name: str | None = None) -> list[Seen]:
        """Return all requests that a proxy made, under an identity if given."""
        seen = [seen for seen in list(self.standin.seen) if seen.peer == proxy.machine.address]
        return [one for one in seen if name in (None, one.name)]


SCENARIOS: tuple[Callable[[Scenarios], None], ...] = (
    Scenarios.sessions_keep_their_identities_on_the_other_proxy,
    Scenarios.a_token_that_dies_here_is_on_no_call_there_a_second_later,
    Scenarios.six_clients_with_an_expired_shared_login_cost_one_renewal,
    Scenarios.a_proxy_without_its_database_serves_and_catches_up,
    Scenarios.a_client_goes_on_when_its_proxy_is_killed_in_mid_turn,
    Scenarios.no_secret_is_in_a_log,
)


def main(folder: Path) -> None:
    enter(folder, HUB)
    run("ip", "address", "add", f"{HUB}/32", "dev", "lo")
    with ExitStack() as stack:
        database = stack.enter_context(Server(address="*", port=5432))
        standin = stack.enter_context(StandIn(PATS, folder=folder, address=HUB, port=443))
        fleet = Fleet(folder, standin, stack)
        login = folder / "auth.json"
        login.touch(mode=0o600)
        login.write_text(json.dumps(standin.login(OWNER)))
        pool = "".join(f'\n[[identity]]\nname = "{token.name}"\ntoken = "{token.token}"\n' for token in PATS)
        members = member(MEMBER, identities=json.dumps([t.name for t in PATS])) + member(BOB, identities='["shared"]')
        key = new_key()
        for ahead in (0.0, AHEAD):
            proxy = fleet.add_proxy(pool + members, {"CODEXPOOL_STATE_KEY": key}, ahead)
            proxy.environ["CODEXPOOL_STATE"] = database.url(host=proxy.machine.database)
        added = fleet.proxies[0].codexpool("add", OWNER.name, "--auth-json", str(login), "--shared")
        assert added.returncode == 0, added.stdout + added.stderr
        fleet.proxies[1].pool.write_text(fleet.proxies[0].pool.read_text())
        for proxy in fleet.proxies:
            proxy.start([*(token.name for token in PATS), OWNER.name])
        scenarios = Scenarios(fleet, database)
        stack.callback(scenarios.balancer.stop)
        played: dict[str, Any] = {scenario.__name__: _played(scenario, scenarios) for scenario in SCENARIOS}
        print(json.dumps({**played, "refusals": standin.refusals, "leaks": len(standin.leaks)}))


def _played(scenario: Callable[[Scenarios], None], scenarios: Scenarios) -> str:
    begun = time.monotonic()
    try:
        scenario(scenarios)
    except Exception:
        logs = [f"-- {proxy.url}:\n{_own_lines(proxy.whole_log)}" for proxy in scenarios.fleet.proxies]
        return "\n".join([traceback.format_exc(), *logs])
    finally:
        print(f"{scenario.__name__}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    return ""


def _own_lines(log: str) -> str:
    """Return what codexpool said, without mitmproxy's lines about connections and flows."""
    return "\n".join(line for line in log.splitlines() if re.match(r"\[[\d:.]+\] ", line))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
