"""Rows that another version, or a person, may have written: one that cannot be read hides no other."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, Table, delete, insert

from codexpool.pool.identity import Condition, IdentityKey, Metadata, Status
from codexpool.pool.usage import LONGEST_LIMIT
from codexpool.state import StateError
from codexpool.state.news import next_revision
from codexpool.state.schema import conditions, logins, metadata, notes, records, revision
from codexpool.state.store import Store
from tests.state.engines import Engine

DEEP = '{"a":' + "[" * 100_000
LIMITED: dict[str, Any] = {"status": "limited", "since": 1.0, "until": 2.0, "evidence": None}
META = {"account_id": "a", "user_id": "u", "plan": "p", "fedramp": False, "origin": "https://chatgpt.com"}

ODD: dict[str, tuple[Table, dict[str, Any]]] = {
    "a status of the future": (conditions, {**LIMITED, "status": "asleep"}),
    "no beginning": (conditions, {**LIMITED, "since": None}),
    "an end that is no number": (conditions, {**LIMITED, "until": math.inf}),
    "evidence of another kind": (conditions, {**LIMITED, "evidence": '{"at": "noon", "note": 7}'}),
    "evidence that is a list": (conditions, {**LIMITED, "evidence": "[1]"}),
    "deep evidence": (conditions, {**LIMITED, "evidence": DEEP}),
    "a deep note": (notes, {"kind": "usage", "note": DEEP}),
    "a note that is a list": (notes, {"kind": "usage", "note": "[1]"}),
    "a note without end": (notes, {"kind": "breaker", "note": '{"opened_at": 1, "until": Infinity}'}),
    "another origin": (metadata, {**META, "origin": "http://127.0.0.1:1"}),
    "an account of two lines": (metadata, {**META, "account_id": "a\r\nhost: b"}),
    "a use without end": (records, {"fingerprint": "f", "account_id": "a", "user_id": "u", "used_at": math.inf}),
}


@pytest.fixture
def state(engine: Engine) -> Store:
    return engine.state()


@pytest.mark.parametrize("name", ODD)
def test_an_odd_row_hides_no_other(state: Store, engine: Engine, name: str) -> None:
    table, odd = ODD[name]
    reader = engine.state()
    reader.load()

    state.transact(lambda connection: write(connection, table, "odd", odd))
    state.transact(lambda connection: write(connection, conditions, "good", LIMITED))
    state.transact(lambda connection: write(connection, notes, "good", {"kind": "usage", "note": "{}"}))
    state.transact(lambda connection: write(connection, metadata, "good", META))

    good = {"good": Condition(Status.LIMITED, 1.0, 2.0)}
    for found in (reader.changes(), reader.load()):
        assert (found.conditions, found.notes) == (good, {("usage", "good"): {}})
    assert found.metadata == {"good": Metadata("a", "u", "p")}
    assert found.records == {}


def test_no_limit_is_believed_for_ever(state: Store) -> None:
    state.transact(lambda connection: write(connection, conditions, "f", {**LIMITED, "until": 1e12}))

    assert state.load().conditions["f"].until == 1.0 + LONGEST_LIMIT


def test_a_login_of_another_kind_hides_no_other(state: Store) -> None:
    for user, generation in (("odd", -(2**63)), ("good", 1)):
        row = {"account_id": "a", "user_id": user, "key_id": "k", "sealed": b"", "generation": generation}
        state.transact(partial(write, table=logins, name=None, values={**row, "refusal": ""}))

    assert state.load().logins[IdentityKey("a", "good")].generation == 1


@pytest.mark.parametrize("rows", [0, 2])
def test_a_revision_that_is_missing_or_twice_there_is_told(state: Store, engine: Engine, rows: int) -> None:
    def spoil(connection: Connection) -> None:
        connection.execute(delete(revision))
        for n in range(rows):
            connection.execute(insert(revision).values(value=7, epoch=f"e{n}"))

    state.load()
    state.transact(spoil)

    assert state.changes().conditions == {}
    assert not state.is_connected
    if engine.at.engine == "postgresql":  # A file is kept aside, and another one is made.
        with pytest.raises(StateError, match="lacks its revision"):
            engine.state()


def write(connection: Connection, table: Table, name: str | None, values: dict[str, Any]) -> None:
    """Write a row as another proxy would: as news."""
    more: dict[str, Any] = {"revision": next_revision(connection, "other"), "writer": "other", "at": 1.0}
    key = {} if name is None else {list(table.primary_key)[-1].name: name}
    known = {column.name for column in table.columns}
    connection.execute(insert(table).values(**key, **values, **{k: v for k, v in more.items() if k in known}))
