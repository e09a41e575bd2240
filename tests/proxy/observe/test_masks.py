"""The client's own secrets: none of them is shown, and each is back where it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.headers import Fields
from codexpool.proxy.observe.masks import MARK, masked, masks_of, unmasked

TOKEN = b"at-test-client-own-fedcba9876543210"

names = st.sampled_from(
    [b"Authorization", b"authorization", b"AUTHORIZATION", b"x-oai-attestation", b"X-OpenAI-Actor-Authorization"]
)
others = st.sampled_from([b"user-agent", b"x-odd", b"Cookie"])
texts = st.binary(max_size=20).filter(lambda value: not set(value) & set(b"\r\n\0"))
values = st.one_of(
    texts,
    texts.map(lambda text: b"Bearer " + text),
    st.sampled_from([b"", b" ", b"Bearer", b"Bearer ", b"<client's own: x>", b"Bearer <client's own: x>", TOKEN]),
)
any_fields = st.lists(st.tuples(st.one_of(names, others), values), max_size=6).map(tuple)


def describe(secret: str) -> str:
    """The least that can be said: many secrets read alike."""
    return "x"


@given(any_fields)
def test_unmasking_restores_byte_for_byte(fields: Fields) -> None:
    made = masks_of(fields, describe)

    assert unmasked(masked(fields, made), made) == fields


@given(any_fields, st.text(max_size=30))
def test_unmasking_restores_any_description(fields: Fields, words: str) -> None:
    made = masks_of(fields, lambda secret: words)

    assert unmasked(masked(fields, made), made) == fields
    assert all(mask.shown.isascii() and mask.shown.decode().isprintable() for mask in made)


@given(any_fields)
def test_a_mask_shows_where_a_secret_is(fields: Fields) -> None:
    made = masks_of(fields, describe)

    for (name, value), (name_shown, value_shown) in zip(fields, masked(fields, made), strict=True):
        assert name == name_shown
        if name.lower() in (b"user-agent", b"x-odd", b"cookie") or not value:
            assert value_shown == value
        else:
            assert MARK in value_shown
            assert value_shown.startswith((MARK, value.partition(b" ")[0] + b" " + MARK))


def test_unmasking_keeps_what_other_addons_have_done() -> None:
    made = masks_of(((b"authorization", b"Bearer " + TOKEN), (b"x-a", b"1")), lambda secret: "PAT 38 chars")
    mask = b"<client's own: PAT 38 chars>"
    fields = ((b"x-copied", b"it is " + mask), (b"authorization", b"bearer " + mask), (b"x-a", b"2"), (b"x-b", b""))

    assert unmasked(fields, made) == (
        *((b"x-copied", b"it is " + TOKEN), (b"authorization", b"bearer " + TOKEN)),
        *((b"x-a", b"2"), (b"x-b", b"")),
    )


def test_secrets_that_read_alike_are_told_apart() -> None:
    fields = ((b"authorization", b"Bearer one"), (b"x-oai-attestation", b"two"), (b"Authorization", b"Bearer one"))

    assert masked(fields, masks_of(fields, describe)) == (
        (b"authorization", b"Bearer <client's own: x>"),
        (b"x-oai-attestation", b"<client's own (2): x>"),
        (b"Authorization", b"Bearer <client's own: x>"),
    )


def test_a_veil_never_shows_its_secret_by_itself() -> None:
    (made,) = masks_of(((b"authorization", b"Bearer " + TOKEN),), describe)

    assert TOKEN.decode() not in repr(made)
