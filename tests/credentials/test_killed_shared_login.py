"""However a proxy ends that renews a login in the state: the login is whole, and the next proxy goes on with it."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest
from sqlalchemy import update

from codexpool.credentials.auth_json import Login
from codexpool.credentials.shared_login import opened
from codexpool.state import State, logins
from codexpool.state.location import location
from codexpool.state.opening import open_state
from codexpool.state.schema import logins as table
from codexpool.tokens.state_keys import new_key, state_keys
from tests.credentials.killing import Killer, undisturbed
from tests.credentials.renewing import OWNER
from tests.e2e.logins import FOREIGN, owner
from tests.standin import StandIn

KILLS = int(os.environ.get("CODEXPOOL_TEST_KILLS", "40"))  # 200 before a release.


class SharedRow:
    """The login in the state, as a person sees it who has the key."""

    def __init__(self, state: State, standin: StandIn) -> None:
        self.key = new_key()
        self._keys = state_keys({"CODEXPOOL_STATE_KEY": self.key})
        self._state = state
        self._standin = standin

    def log_in(self) -> None:
        text = json.dumps({**self._standin.login(owner("spare")), **FOREIGN})
        self._state.transact(lambda connection: logins.log_in(connection, OWNER, self._keys.seal(text, OWNER)))

    def read(self) -> Login:
        """Return the login, which is whole."""
        stored = self._state.transact(lambda connection: logins.login_rows(connection, -1))[OWNER]
        login = opened(OWNER, stored, self._keys)
        assert {key: login.document[key] for key in FOREIGN} == FOREIGN
        assert set(login.document["tokens"]) == {"id_token", "access_token", "refresh_token", "account_id"}
        return login

    def let_marks_end(self) -> None:
        """Half a minute passes, and other proxies have watched the mark of a killed one."""
        self._state.transact(lambda c: c.execute(update(table).values(renewing_by=None, renewing_until=None)))


def killed_around_a_renewal(row: SharedRow, standin: StandIn, killer: Killer) -> None:
    duration = min(undisturbed(killer) for _ in range(5))
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    killed = lost = 0
    spent = standin.refreshes
    for number in range(KILLS):
        before, earlier, spent = row.read(), spent, standin.refreshes
        killed += killer.after(chance.uniform(0, 1.5 * duration)) == -9
        about = f"seed {seed}, moment {number}"
        after = row.read()
        if after.refresh_token not in standin.backend.refresh_tokens._logins:
            # Lost: the server had spent the token, and its answer was not committed yet. (On a busy machine the
            # server may get to it when the next process has begun.)
            assert after == before, about
            assert standin.refreshes > earlier, about
            lost += 1
            row.log_in()
        row.let_marks_end()
    print(
        f"{killed} of {KILLS} were killed in time, {lost} lost their login; a renewal takes {duration * 1000:.0f} ms"
    )
    assert killed > KILLS / 5
    assert killer.after(20.0) == 0  # What was left behind is no obstacle.


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_the_login_is_whole_whenever_a_proxy_is_killed(
    request: pytest.FixtureRequest, engine: str, tmp_path: Path
) -> None:
    where = str(tmp_path / "state.sqlite3") if engine == "sqlite" else request.getfixturevalue("postgres_url")
    state = open_state(location({"CODEXPOOL_STATE": where}))
    with StandIn([], folder=tmp_path / "standin") as standin:
        row = SharedRow(state, standin)
        row.log_in()
        killer = Killer(standin, CODEXPOOL_STATE=where, CODEXPOOL_STATE_KEY=row.key)
        try:
            killed_around_a_renewal(row, standin, killer)
        finally:
            killer.end()
            state.close()
