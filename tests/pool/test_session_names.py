"""The sessions of clients that name none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codexpool.pool.session_names import CLIENTS_KEPT, IDS_KEPT, LASTS, OF_CLIENT, SessionNames

NOW = 1_780_000_000.0
REQUEST, WINDOW = "x-client-request-id", "x-codex-window-id"


def test_what_one_client_sends_belongs_together_until_it_pauses() -> None:
    names = SessionNames()
    first = names.name("one", [], NOW)

    assert first.source == OF_CLIENT
    assert names.name("one", [], NOW + LASTS - 1) == first
    assert names.name("two", [], NOW + LASTS - 1) != first
    assert names.name("one", [], NOW + 2 * LASTS - 2) == first
    assert names.name("one", [], NOW + 3 * LASTS) != first


def test_an_id_that_is_repeated_names_the_session_and_continues_what_it_began() -> None:
    names = SessionNames()
    began = names.name("one", [(REQUEST, "a"), (WINDOW, "w")], NOW)
    goes_on = names.name("one", [(REQUEST, "a"), (WINDOW, "w")], NOW + 1)

    assert began.source == OF_CLIENT
    assert (goes_on.session, goes_on.source, goes_on.parent) == ("a", REQUEST, began.session)
    assert names.name("one", [(REQUEST, "b"), (WINDOW, "w")], NOW + 2).session == "w"


def test_an_id_that_is_never_repeated_names_nothing() -> None:
    names = SessionNames()

    sessions = {names.name("one", [(REQUEST, str(number))], NOW + number).session for number in range(50)}

    assert len(sessions) == 1


def test_one_retry_is_no_habit() -> None:
    names = SessionNames()
    for number in range(20):
        names.name("one", [(REQUEST, str(number))], NOW)
    names.name("one", [(REQUEST, "19")], NOW)

    assert names.name("one", [(REQUEST, "20")], NOW).source == OF_CLIENT


def test_a_client_that_repeats_its_ids_is_believed_from_their_first_use_on() -> None:
    names = SessionNames()
    for _ in range(4):
        names.name("one", [(REQUEST, "a")], NOW)

    assert names.name("one", [(REQUEST, "b")], NOW) == ("b", REQUEST, None)
    assert names.name("two", [(REQUEST, "b")], NOW).source == OF_CLIENT


def test_the_ids_of_one_client_say_nothing_of_anothers() -> None:
    names = SessionNames()
    names.name("one", [(REQUEST, "a")], NOW)

    assert names.name("two", [(REQUEST, "a")], NOW).source == OF_CLIENT


turns = st.lists(
    st.tuples(
        st.sampled_from(["one", "two"]),
        st.lists(st.tuples(st.sampled_from([REQUEST, WINDOW]), st.sampled_from("abc")), max_size=2),
        st.floats(0, 3 * LASTS),
    ),
    max_size=30,
)


@given(turns)
def test_a_session_is_of_one_client_and_named_by_what_it_sent(
    turns: list[tuple[str, list[tuple[str, str]], float]],
) -> None:
    names = SessionNames()
    owners: dict[str, str] = {}
    for client, ids, after in turns:
        named = names.name(client, ids, NOW + after)
        if named.source == OF_CLIENT:
            assert owners.setdefault(named.session, client) == client
        else:
            assert (named.source, named.session) in ids


def test_nothing_grows_without_bound() -> None:
    names = SessionNames()
    for number in range(CLIENTS_KEPT + 10):
        names.name(str(number), [(REQUEST, "a"), (WINDOW, "b")], NOW)

    assert len(names._clients) == len(names._habits) == CLIENTS_KEPT
    assert len(names._ids) == IDS_KEPT
