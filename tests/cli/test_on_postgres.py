"""The commands work on a state in PostgreSQL as they do on a file, and never show its password."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from codexpool.cli.common import open_the_state
from codexpool.members.ledger import Account, Spent
from codexpool.pool.identity import Condition, IdentityKey, Status
from codexpool.state.location import Postgres
from codexpool.state.opening import open_state
from tests.cli.pools import Pool
from tests.postgres import PASSWORD
from tests.running import pat
from tests.standin import StandIn

OWNER = 'account_id = "acc-shared"\nuser_id = "user-shared"\n'
SESSION = "0199a213-81c0-7800-8aa1-bbab2a035a53"


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> Iterator[Pool]:
    with StandIn([], folder=tmp_path / "standin") as standin:
        made = Pool(standin, tmp_path, monkeypatch)
        made.add(pat("work"))
        made.add(pat("spare"))
        monkeypatch.setenv("CODEXPOOL_STATE", postgres_url)
        made.secret(PASSWORD)
        yield made


def test_an_operators_day(pool: Pool) -> None:
    assert pool.list()["work"]["status"] == "unverified"
    pool.run("check")
    fingerprint = pool.list()["work"]["fingerprint"]
    assert pool.list()["work"]["status"] == "ready"

    with open_the_state() as state:
        state.put_session(SESSION, IdentityKey("acc-work", "user-work"), time.time())
        state.put_condition(fingerprint, Condition(Status.LIMITED, time.time(), time.time() + 3600))
        account = Account(state.scope(pool.path), time.strftime("%Y-%m-%d", time.gmtime()), "ann", "work", "gpt-5")
        state.put_spent(account, Spent(turns=7, first_at=1.0, last_at=time.time()))
    assert pool.list()["work"]["status"] == "limited"
    pool.run("resume", "work")
    assert pool.list()["work"]["status"] == "ready"

    assert "is pinned to spare" in pool.run("pin", SESSION[:13], "spare").output
    assert "is no longer pinned" in pool.run("unpin", SESSION[:8]).output
    assert "the breaker is closed" in pool.run("breaker", "--close").output
    [row] = json.loads(pool.run("usage", "--json").stdout)["rows"]
    assert (row["member"], row["turns"]) == ("ann", 7)

    found = json.loads(pool.run("state", "--json").stdout)
    assert (found["engine"], found["rows"]["sessions"], found["rows"]["spent"]) == ("postgresql", 1, 1)
    assert found["bytes"] > 0
    assert abs(found["clock_ahead"]) < 60
    pool.run("remove", "spare")


def test_the_state_is_copied_from_its_file(pool: Pool, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEXPOOL_STATE", str(pool.folder / "state.sqlite3"))

    said = pool.run("state", "copy", "--to", postgres_url).output

    assert "metadata 2, conditions 2, records 2" in said
    assert "not empty" in pool.run("state", "copy", "--to", postgres_url, code=1).output
    with closing(open_state(Postgres(postgres_url))) as state:
        assert set(state.load().records) == {f"{state.scope(pool.path)}#{name}" for name in ("work", "spare")}


def test_an_error_of_the_target_names_the_option(
    pool: Pool, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CODEXPOOL_STATE", str(pool.folder / "state.sqlite3"))
    wrong = postgres_url.replace(PASSWORD, pool.secret("wr0ng-and-never-shown"))
    said = pool.run("state", "copy", "--to", wrong, code=1).stderr
    assert "correct the user or the password: in --to, PGPASSWORD or" in said
    assert "CODEXPOOL_STATE" not in said


@pytest.mark.parametrize(
    "command",
    [
        ["resume", "work"],
        ["rename", "work", "other"],
        ["reset", "work", "--yes"],
        ["breaker"],
        ["breaker", "--close"],
        ["pin", SESSION, "work"],
        ["unpin", SESSION],
        ["remove", "shared", "--with-login"],
    ],
)
def test_what_only_the_state_knows_is_not_guessed_while_it_is_out_of_reach(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setenv("CODEXPOOL_STATE", f"postgresql://codexpool@127.0.0.1:{port}/codexpool")
    pool.path.write_text(f'{pool.text}\n[[identity]]\nname = "shared"\nlogin = "state"\n{OWNER}')
    before = pool.text

    done = pool.run(*command, code=1)

    assert (done.stdout, pool.text) == ("", before)
    [said] = done.stderr.splitlines()
    assert said.startswith(f"codexpool: state: postgresql://127.0.0.1:{port}/codexpool")
    assert "; " in said  # What to do.


def test_an_identity_that_is_paused_in_pool_toml_is_resumed_without_the_state(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.run("pause", "work")
    monkeypatch.setenv("CODEXPOOL_STATE", "postgresql://codexpool@127.0.0.1:9/codexpool")

    done = pool.run("resume", "work")

    assert done.stdout == "work is resumed\n"
    assert "pool.toml alone" in done.stderr  # Whether a limit goes on is not known.


def test_a_wrong_password_is_told_without_it(pool: Pool, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = pool.secret("wr0ng-and-never-shown")
    monkeypatch.setenv("CODEXPOOL_STATE", postgres_url.replace(PASSWORD, wrong))

    assert "codexpool: state: postgresql://" in pool.run("state", code=1).stderr
    assert "Showing what pool.toml alone says" in pool.run("list").stderr
    assert "codexpool: state: postgresql://" in pool.run("breaker", "--close", code=1).stderr
    doctor = json.loads(pool.run("doctor", "--json", code=1).stdout)["findings"]
    [found] = [finding for finding in doctor if finding["about"] == "state"]
    assert found["level"] == "wrong"
