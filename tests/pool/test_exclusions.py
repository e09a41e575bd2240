"""What other proxies learn of the things an identity is not used for."""

from __future__ import annotations

from codexpool.pool.exclusions import SHARED, Exclusion, Exclusions, Kind, entries_of

NOW = 1_800_000_000.0


def entry(number: int, kind: Kind, subject: str = "ours") -> Exclusion:
    return Exclusion(kind, subject, f"/path/{number}", NOW + number, NOW + 900, "refused", False, True)


def test_others_learn_the_newest_entries_of_a_subject_in_order() -> None:
    exclusions = Exclusions()
    kinds = (Kind.ENDPOINT, Kind.MODEL, Kind.LIMIT)
    made = [entry(number, kinds[number % 3]) for number in range(2 * SHARED)]
    for one in made:
        exclusions.add(one)
        exclusions.add(one._replace(subject="theirs"))
        exclusions.add(one._replace(kind=Kind.SESSION))

    learned = entries_of(exclusions.document("ours"), NOW + 2 * SHARED)

    assert learned == made[-SHARED:]


def test_a_new_entry_costs_no_look_at_all_old_ones() -> None:
    exclusions = Exclusions()
    for number in range(900):
        exclusions.add(entry(number, Kind.ENDPOINT))
    looked_at = []

    class Watched(str):
        def __eq__(self, other: object) -> bool:
            looked_at.append(other)
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    document = exclusions.document(Watched("ours"))

    assert len(document["entries"]) == SHARED
    assert len(looked_at) <= 3 * SHARED
