"""`codexpool pin` and `unpin`: the session that a person means, or one line that says why not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from codexpool.cli.common import open_the_state
from codexpool.pool.identity import Condition, IdentityKey, Status
from codexpool.state.notes import PINNED, pin_name
from codexpool.tokens.member_key import hashed
from tests.cli.pools import Pool
from tests.running import key_of, pat
from tests.standin import StandIn

FIRST, SECOND = "0199a213-81c0-7000-8000-aabbccddeeff", "0199a213-92d1-7000-8000-aabbccddeeff"
UNSEEN = "0199a214-0000-7000-8000-aabbccddeeff"
WORK = IdentityKey("acc-work", "user-work")


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pool]:
    """Two identities, and sessions that a proxy has served: two, and one of the member ann."""
    with StandIn([], folder=tmp_path / "standin") as standin:
        pool = Pool(standin, tmp_path, monkeypatch)
        pool.add(pat("work"))
        pool.add(pat("spare"))
        with open_the_state() as state:
            for session in (FIRST, SECOND, "ann/a-session"):
                state.put_session(session, WORK, time.time())
        yield pool


def pins(pool: Pool) -> dict[str, object]:
    with open_the_state() as state:
        notes = state.load().notes
    start = pin_name(str(pool.path), "")
    return {name.removeprefix(start): note.get("identity") for (kind, name), note in notes.items() if kind == PINNED}


def with_member(pool: Pool, identities: str) -> None:
    with pool.path.open("a") as file:
        file.write(f'\n[[member]]\nname = "ann"\nkey = "{hashed(key_of("ann"))}"\nidentities = ["{identities}"]\n')


@pytest.mark.parametrize("named", [FIRST, "0199a213-81c0", "0199a213-8"])
def test_session_is_pinned_by_its_id_or_the_beginning_of_it(pool: Pool, named: str) -> None:
    said = pool.run("pin", named, "spare").stdout

    assert said == f"session {FIRST} is pinned to spare. To undo: codexpool unpin {FIRST}\n"
    assert pins(pool) == {FIRST: "spare"}

    assert pool.run("unpin", named).stdout == f"session {FIRST} is no longer pinned\n"
    assert pins(pool) == {FIRST: None}
    assert pool.run("unpin", named, code=1).stderr == "codexpool: no session is pinned\n"


def test_another_pin_replaces_the_first(pool: Pool) -> None:
    pool.run("pin", FIRST, "spare")
    pool.run("pin", FIRST, "work")

    assert pins(pool) == {FIRST: "work"}


def test_session_that_was_not_seen_is_pinned_by_its_whole_id(pool: Pool) -> None:
    pool.run("pin", UNSEEN, "work")

    assert pins(pool) == {UNSEEN: "work"}


@pytest.mark.parametrize(
    ("session", "name", "code", "said"),
    [
        ("0199a213", "work", 1, f"several sessions begin with 0199a213: {SECOND}, {FIRST}"),
        ("0199b", "work", 2, 'no session begins with "0199b". To see the latest ones: codexpool status'),
        ("", "work", 2, "no session begins with"),
        (FIRST, "wrok", 2, 'no identity "wrok" in'),
    ],
)
def test_what_cannot_be_pinned_is_refused_in_one_line(
    pool: Pool, session: str, name: str, code: int, said: str
) -> None:
    assert said in pool.run("pin", session, name, code=code).stderr
    assert pins(pool) == {}


def test_session_of_a_member_is_pinned_to_its_identities_only(pool: Pool) -> None:
    with_member(pool, "sp*")

    assert "ann may not use work" in pool.run("pin", "a-session", "work", code=1).stderr
    pool.run("pin", "a-session", "spare")

    assert pins(pool) == {"ann/a-session": "spare"}


def test_person_is_told_if_the_identity_cannot_serve_now(pool: Pool) -> None:
    fingerprint = pool.list()["spare"]["fingerprint"]
    with open_the_state() as state:
        state.put_condition(fingerprint, Condition(Status.LIMITED, time.time(), time.time() + 3600))

    said = pool.run("pin", FIRST, "spare")

    assert said.stderr == "codexpool: spare cannot serve it now: it is limited. See: codexpool show spare\n"
    assert pins(pool) == {FIRST: "spare"}


@pytest.mark.parametrize("text", ["%", "_199a213-81c0", "0199a213-81c0%", "/a-session"])
def test_beginning_of_an_id_is_taken_literally(pool: Pool, text: str) -> None:
    assert "no session begins with" in pool.run("pin", text, "work", code=2).stderr


def test_session_that_is_not_pinned_is_called_so(pool: Pool) -> None:
    pool.run("pin", FIRST, "spare")

    assert 'no pinned session begins with "0199b"' in pool.run("unpin", "0199b", code=2).stderr


def test_pin_to_a_removed_identity_can_be_undone(pool: Pool) -> None:
    pool.run("pin", FIRST, "spare")
    pool.run("remove", "spare")

    pool.run("unpin", FIRST)

    assert pins(pool) == {FIRST: None}
