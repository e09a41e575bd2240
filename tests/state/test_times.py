"""Every time in a state is by one clock: each kind of row and note is moved as a whole, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.members.ledger import Account, Spent
from codexpool.pool.breaker import Breaker
from codexpool.pool.exclusions import Exclusion, Exclusions, Kind
from codexpool.pool.identity import Condition, Evidence, IdentityKey, Metadata, Status
from codexpool.pool.usage import MAIN, Limit, ResetCredits, Usage, Window
from codexpool.protocol.usage_report import FamilyReport, UsageReport
from codexpool.state import Record, Row, Rows, Snapshot, notes
from codexpool.state.times import COLUMNS, NOTES, moved_row, moved_snapshot, not_ahead

NOW = 1_800_000_000.0
KEY = IdentityKey("acc", "user")


class Kept(Rows):
    """Keeps the rows that are put."""

    def __init__(self) -> None:
        super().__init__(lambda: NOW)
        self.rows: list[Row] = []

    def put(self, row: Row) -> None:
        self.rows.append(row)


def usage() -> dict[str, Any]:
    """Everything that can be known of an account."""
    known = Usage()
    known.was_reset(NOW - 9_000)
    known.see(Window(MAIN, 300, 100.0, NOW + 60, NOW - 1))
    known.see(Window("spark", 10_080, 3.0, None, NOW - 2))
    known.limit(Limit("spark", NOW + 3_600), NOW)
    known.read(UsageReport((FamilyReport(MAIN, (), False),), plan="plus"), NOW - 5, NOW)
    known.credits = ResetCredits(3, NOW + 86_400, NOW - 7, is_listed=True)
    return known.document()


def breaker() -> dict[str, Any]:
    opened = Breaker()
    opened.take({"opened_at": NOW - 2, "until": NOW + 3, "names": ["a"]})
    return {**opened.document(), "at": NOW}


def not_for() -> dict[str, Any]:
    known = Exclusions()
    known.add(Exclusion(Kind.MODEL, "acc/plus", "gpt-x", NOW, NOW + 60, "400 on codex/responses", True, False))
    return known.document("acc/plus")


DOCUMENTS: dict[str, dict[str, Any]] = {
    notes.USAGE: usage(),
    notes.RESET: {"at": NOW, "request": "r", "credit": "c", "asked_at": NOW - 5},
    notes.FAMILIES: {"gpt-x": "spark"},
    notes.BREAKER: breaker(),
    notes.RESUMED: {"at": NOW},
    notes.NOT_FOR: not_for(),
    notes.PINNED: {"identity": "a", "at": NOW},
    notes.EMAIL: {"email": "ann@example.invalid"},
}
"""A note of each kind, with every time it can have."""


def numbers(node: Any) -> Iterator[float]:
    """Yield the numbers in JSON, in rows, and in JSON that rows have as text."""
    if isinstance(node, str) and node.startswith("{"):
        yield from numbers(json.loads(node))
    elif isinstance(node, dict):
        for value in node.values():
            yield from numbers(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from numbers(value)
    elif isinstance(node, int | float):
        yield float(node)


def is_time(number: float) -> bool:
    return number > 1e9


def all_rows() -> list[Row]:
    """A row of each kind."""
    kept, evidence = Kept(), Evidence(NOW - 3, "GET", "whoami", 401, "token_revoked", fingerprint="f")
    kept.put_session("s", KEY, NOW, 2)
    kept.put_metadata("f", Metadata("acc", "user", "plus"), NOW)
    kept.put_condition("f", Condition(Status.LIMITED, NOW - 3, NOW + 60, evidence))
    kept.drop_condition("g")
    kept.put_record("p#a", Record("f", KEY, NOW - 1))
    kept.drop_record("p#b")
    for kind, document in DOCUMENTS.items():
        kept.put_note(kind, "name", document)
    kept.put_spent(Account("p", "2026-11-25", "ann", "a", "gpt-x"), Spent(1, 0, 2, 3, 4, 5, NOW - 8, NOW))
    kept.put_claim("case", NOW)
    return kept.rows


@pytest.mark.parametrize("row", all_rows(), ids=lambda row: f"{row.table}-{row.key}")
@pytest.mark.parametrize("seconds", [300.0, -300.0])
def test_all_times_of_a_row_are_moved_and_no_other_number(row: Row, seconds: float) -> None:
    moved = moved_row(row, seconds)

    assert (moved.table, moved.key) == (row.table, row.key)
    assert [n + seconds if is_time(n) else n for n in numbers(row.values)] == list(numbers(moved.values))


def test_every_kind_of_row_and_note_is_known() -> None:
    assert {row.table for row in all_rows()} == COLUMNS.keys()
    kinds = {value for name, value in vars(notes).items() if name.isupper()}
    assert kinds == NOTES.keys() == DOCUMENTS.keys()


def snapshot() -> Snapshot:
    evidence = Evidence(NOW - 3, note="a limit")
    return Snapshot(
        sessions={"s": KEY},
        metadata={"f": Metadata("acc", "user", "plus")},
        conditions={
            "f": Condition(Status.LIMITED, NOW - 3, NOW + 60, evidence),
            "g": Condition(Status.READY, NOW),
        },
        records={"p#a": Record("f", KEY, NOW - 1), "p#b": Record("g", KEY)},
        notes={(kind, "name"): document for kind, document in DOCUMENTS.items()},
        moves={"s": 2},
        spent={(Account("p", "2026-11-25", "ann", "a", "gpt-x"), "w"): Spent(1, first_at=NOW - 8, last_at=NOW)},
        dropped={"h": NOW},
    )


def parts(news: Snapshot) -> list[Any]:
    conditions = [(c.since, c.until, c.evidence and c.evidence.at) for c in news.conditions.values()]
    more = (news.records.values(), news.notes.values(), news.spent.values(), news.dropped.values())
    return [conditions, *map(list, more)]


def test_all_times_of_what_is_read_are_moved_and_nothing_else() -> None:
    known = snapshot()

    moved = moved_snapshot(known, 300.0)

    assert [n + 300.0 if is_time(n) else n for n in numbers(parts(known))] == list(numbers(parts(moved)))
    assert (moved.sessions, moved.metadata, moved.moves) == (known.sessions, known.metadata, known.moves)
    assert moved_snapshot(moved, -300.0) == known


ODD = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.just(10**400) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(["at", "windows", "x"]), inner),
    max_leaves=8,
)


@given(kind=st.sampled_from(sorted(NOTES)), note=ODD, seconds=st.sampled_from([0.0, 300.0, -1e9]))
def test_a_note_that_is_strange_stops_neither_reading_nor_writing(kind: str, note: Any, seconds: float) -> None:
    kept = Kept()
    kept.put_note(kind, "name", note)

    moved_row(kept.rows[0], seconds)
    assert moved_snapshot(Snapshot(notes={(kind, "name"): note}), seconds).notes.keys() == {(kind, "name")}


def test_never_stays_never() -> None:
    """Zero is no time: an account that was never read must not seem to have been read just after it."""
    (row,) = (row for row in all_rows() if row.values.get("kind") == notes.RESUMED)
    never = row._replace(values={**row.values, "kind": notes.USAGE, "note": json.dumps(Usage().document())})

    assert json.loads(str(moved_row(never, 300.0).values["note"])) == Usage().document()


def test_what_seems_to_have_happened_in_a_moment_has_happened() -> None:
    """The clocks of two machines are compared to a fraction of a second: a word must not be ignored for that."""
    known = moved_snapshot(snapshot(), 0.5)

    seen = not_ahead(known, NOW)

    assert max(n for n in numbers([known.conditions["g"].since, list(known.notes.values())]) if is_time(n)) > NOW
    before, after = list(numbers(parts(known))), list(numbers(parts(seen)))
    happened = [(b, a) for b, a in zip(before, after, strict=True) if NOW < b <= NOW + 1]
    assert happened
    assert {a for _, a in happened} == {NOW}
    assert [a for b, a in zip(before, after, strict=True) if not NOW < b <= NOW + 1] == [
        b for b in before if not NOW < b <= NOW + 1
    ]


def test_what_ends_in_a_moment_has_not_ended() -> None:
    known = Snapshot(conditions={"f": Condition(Status.LIMITED, NOW - 60, NOW + 0.5)})

    assert not_ahead(known, NOW) == known
