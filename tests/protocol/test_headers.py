from __future__ import annotations

from collections.abc import Mapping

from hypothesis import example, given
from hypothesis import strategies as st

from codexpool.protocol import headers
from codexpool.protocol.headers import (
    ACCEPT_ENCODING,
    ACCOUNT,
    AUTHORIZATION,
    FEDRAMP,
    HEADERS,
    ROUTING_OVERRIDE,
    TURN_STATE,
    Action,
    Fields,
    identity_values,
    labelled,
)

TOKEN = "at-test-of-the-pool"
CLIENT_TOKEN = b"at-test-of-the-client"

OTHERS = [
    b"user-agent",
    b"originator",
    b"session-id",
    b"thread-id",
    b"cookie",
    b"content-encoding",
    b"openai-beta",
    b"x-codex-turn-metadata",
    b"authorization-x",
    b"x-authorization",
]


def swapped(fields: Fields, values: Mapping[bytes, bytes], keep: bool) -> Fields:
    """`headers.swapped` for a request that goes to chatgpt.com."""
    return headers.swapped(fields, values, keep, b"chatgpt.com", True)


def test_forged_host_header_does_not_lead_a_credential_elsewhere() -> None:
    fields = ((b"Host", b"elsewhere.example"), (b"accept", b"*/*"), (b"host", b"chatgpt.com"))

    assert headers.swapped(fields, {}, False, b"gov.chatgpt.com", True) == (
        (b"Host", b"gov.chatgpt.com"),
        (b"accept", b"*/*"),
    )


def spelled(names: list[bytes]) -> st.SearchStrategy[bytes]:
    spellings = st.sampled_from([bytes.lower, bytes.upper, bytes.title, bytes.capitalize])
    return st.builds(lambda spell, name: spell(name), spellings, st.sampled_from(names))


named = st.tuples(spelled(list(HEADERS)), st.just(b"Bearer " + CLIENT_TOKEN))
others = st.tuples(spelled(OTHERS), st.binary(max_size=20))
all_fields = st.lists(named | others, max_size=12).map(tuple)
identities: st.SearchStrategy[Mapping[bytes, bytes]] = st.builds(
    identity_values,
    st.just(f"Bearer {TOKEN}"),
    st.sampled_from(["account-1", "account-2"]),
    st.booleans(),
    st.sampled_from([None, "us", "us_cr"]),
)


def names(fields: Fields) -> list[bytes]:
    return [name.lower() for name, _ in fields]


def not_in_the_table(fields: Fields) -> list[tuple[bytes, bytes]]:
    return [field for field in fields if field[0].lower() not in HEADERS]


@given(all_fields, identities, st.booleans())
def test_request_leaves_with_exactly_the_headers_of_the_identity(
    fields: Fields, values: Mapping[bytes, bytes], keep: bool
) -> None:
    out = swapped(fields, values, keep)

    for name, action in HEADERS.items():
        sent = [value for sent_name, value in out if sent_name.lower() == name]
        if action is Action.SET:
            assert sent == ([values[name]] if name in values else [])
        elif action in (Action.REMOVE, Action.REMOVE_FOR_STREAM):
            assert sent == []
    assert names(out).count(AUTHORIZATION) == names(out).count(ACCOUNT) == 1


@given(all_fields, identities, st.booleans())
def test_everything_the_table_does_not_name_goes_out_as_it_came(
    fields: Fields, values: Mapping[bytes, bytes], keep: bool
) -> None:
    assert not_in_the_table(swapped(fields, values, keep)) == not_in_the_table(fields)


@given(all_fields, identities, st.booleans())
def test_nothing_of_the_clients_credential_is_left(fields: Fields, values: Mapping[bytes, bytes], keep: bool) -> None:
    out = [field for field in swapped(fields, values, keep) if field[0].lower() != TURN_STATE]

    assert not any(CLIENT_TOKEN in value for name, value in out if name.lower() in HEADERS)


@given(all_fields, identities)
@example(((b"X-Codex-Turn-State", b"opaque"),), identity_values(f"Bearer {TOKEN}", "account", False, None))
def test_turn_state_is_kept_only_for_the_identity_that_issued_it(
    fields: Fields, values: Mapping[bytes, bytes]
) -> None:
    turn_states = [field for field in fields if field[0].lower() == TURN_STATE]

    kept, stripped = swapped(fields, values, True), swapped(fields, values, False)

    assert [field for field in kept if field[0].lower() == TURN_STATE] == turn_states
    assert TURN_STATE not in names(stripped)


@given(all_fields, identities, st.booleans())
def test_only_a_stream_is_asked_for_without_compression(
    fields: Fields, values: Mapping[bytes, bytes], keep: bool
) -> None:
    asked = [field for field in fields if field[0].lower() == ACCEPT_ENCODING]

    stream, other = (
        headers.swapped(fields, values, keep, b"chatgpt.com", for_stream) for for_stream in (True, False)
    )

    assert [field for field in other if field[0].lower() == ACCEPT_ENCODING] == asked
    assert tuple(field for field in other if field not in asked) == stream


def test_a_bearer_without_an_account_leaves_without_the_clients() -> None:
    values = identity_values("Bearer corp-token", "", False, None)
    fields = ((b"Authorization", b"Bearer mine"), (b"ChatGPT-Account-ID", b"mine"), (b"accept", b"*/*"))
    assert swapped(fields, values, True) == ((b"Authorization", b"Bearer corp-token"), (b"accept", b"*/*"))


@given(all_fields, identities, st.booleans())
def test_dressing_twice_is_dressing_once(fields: Fields, values: Mapping[bytes, bytes], keep: bool) -> None:
    once = swapped(fields, values, keep)

    assert swapped(once, values, keep) == once


@given(all_fields, identities, identities, st.booleans())
def test_nothing_of_the_identity_before_is_left(
    fields: Fields, before: Mapping[bytes, bytes], now: Mapping[bytes, bytes], keep: bool
) -> None:
    def as_set(dressed: Fields) -> list[tuple[bytes, bytes]]:
        return sorted((name.lower(), value) for name, value in dressed)

    assert as_set(swapped(swapped(fields, before, keep), now, keep)) == as_set(swapped(fields, now, keep))


def test_header_keeps_its_place_and_the_spelling_of_its_name() -> None:
    fields = ((b"A", b"1"), (b"AuthoriZation", b"Bearer x"), (b"B", b"2"), (b"authorization", b"AgentAssertion y"))

    assert swapped(fields, identity_values(f"Bearer {TOKEN}", "account", False, None), False) == (
        (b"A", b"1"),
        (b"AuthoriZation", b"Bearer at-test-of-the-pool"),
        (b"B", b"2"),
        (ACCOUNT, b"account"),
    )


def test_government_and_residency_are_the_identitys() -> None:
    fields = ((FEDRAMP, b"true"), (ROUTING_OVERRIDE, b"us_cr"), (b"x-openai-internal-codex-residency", b"us"))

    plain = swapped(fields, identity_values(f"Bearer {TOKEN}", "account", False, None), False)
    special = swapped((), identity_values(f"Bearer {TOKEN}", "account", True, "us"), False)

    assert sorted(names(plain)) == [AUTHORIZATION, ACCOUNT]
    assert dict(special) == {
        AUTHORIZATION: b"Bearer at-test-of-the-pool",
        ACCOUNT: b"account",
        FEDRAMP: b"true",
        ROUTING_OVERRIDE: b"us",
    }


# -- what a flow shows

secrets = st.tuples(
    spelled([AUTHORIZATION, b"x-oai-attestation", b"x-openai-actor-authorization", b"x-openai-agent-assertion"]),
    st.sampled_from([b"Bearer " + CLIENT_TOKEN, CLIENT_TOKEN, b"AgentAssertion " + CLIENT_TOKEN]),
)
accounts = st.tuples(spelled([ACCOUNT]), st.just(b"account-of-the-client"))
shown_fields = st.lists(secrets | accounts | others, max_size=12)


@given(shown_fields.map(tuple))
def test_flow_shows_who_serves_and_no_credential(fields: Fields) -> None:
    shown = labelled(fields, "work")

    assert [v for n, v in shown if n.lower() == AUTHORIZATION] == [b"Bearer <codexpool:work>"]
    assert [v for n, v in shown if n.lower() == ACCOUNT] == [b"<codexpool:work>"]
    assert not any(CLIENT_TOKEN in value for _, value in shown)


@given(shown_fields.map(tuple))
def test_label_changes_nothing_else(fields: Fields) -> None:
    assert not_in_the_table(labelled(fields, "work")) == not_in_the_table(fields)


@given(shown_fields.map(tuple))
def test_label_takes_the_place_of_the_one_before(fields: Fields) -> None:
    assert labelled(labelled(fields, "work"), "work") == labelled(fields, "work")
    assert labelled(labelled(fields, "waiting"), "work") == labelled(fields, "work")


@given(shown_fields.map(tuple), identities)
def test_placeholders_never_reach_the_wire(fields: Fields, values: Mapping[bytes, bytes]) -> None:
    on_the_wire = swapped(labelled(fields, "work"), values, False)

    assert not any(b"<codexpool:" in value for _, value in on_the_wire)
    assert sorted(on_the_wire) == sorted(swapped(fields, values, False))
