from __future__ import annotations

from codexpool.pool import portability as module
from codexpool.pool.portability import Portability


def test_refused_reasoning_is_left_out_from_then_on() -> None:
    """Of the requests of that session."""
    known = Portability()
    assert known.foreign("s", {"a"}, "b") == ()

    known.refused("s", {"a"}, "b")
    assert known.foreign("s", {"a"}, "b") is None  # all that is in the next request
    known.left_out("s", "b", {b"1", b"2"})

    assert known.foreign("s", {"a"}, "b") == {b"1", b"2"}


def test_a_pair_of_accounts_counts_for_every_session() -> None:
    known = Portability()
    known.refused("s", {"a"}, "b")

    assert known.foreign("other", {"a"}, "b") is None
    assert known.foreign("other", {"a"}, "c") == ()
    assert known.foreign("other", {"b"}, "a") == ()
    assert known.foreign("other", (), "b") == ()


def test_a_request_without_a_session_teaches_nothing() -> None:
    known = Portability()
    known.refused(None, (), "b")
    known.left_out(None, "b", {b"1"})

    assert known.foreign(None, (), "b") == ()


def test_nothing_is_remembered_without_bound(monkeypatch: object) -> None:
    known = Portability()
    for number in range(module.SESSIONS_KEPT + 10):
        known.left_out(f"s{number}", "b", {b"1"})

    assert known.foreign("s0", (), "b") == ()
    assert known.foreign(f"s{module.SESSIONS_KEPT}", (), "b") == {b"1"}
