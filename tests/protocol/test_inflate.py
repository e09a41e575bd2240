"""What is inflated is bounded, wherever it is cut, and whatever it is."""

from __future__ import annotations

import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.inflate import (
    FRAMES,
    PIECE,
    Inflater,
    TooLongError,
    UnreadableError,
    inflated,
    is_known,
    pieces,
)
from tests.protocol.codings import CODINGS, COMPRESSED, MB, bomb


def cut(whole: bytes, data: st.DataObject) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


@pytest.mark.parametrize("name", CODINGS)
@given(text=st.binary(max_size=2000), data=st.data())
def test_what_is_inflated_is_what_was_encoded_wherever_it_is_cut(name: str, text: bytes, data: st.DataObject) -> None:
    encoding, encode = CODINGS[name]
    inflater = Inflater(f" {encoding.upper()}")

    made = [part for piece in cut(encode(text), data) for part in inflater.take(piece)]

    assert b"".join(made) == text
    assert inflater.has_ended
    assert inflated(encode(text), encoding, len(text)) == text


@pytest.mark.parametrize("name", COMPRESSED)
def test_a_bomb_is_inflated_in_small_pieces(name: str) -> None:
    """And no further than was asked for."""
    encoding, body = bomb(name)
    assert len(body) < 600_000
    sizes: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(TooLongError):
            sizes.extend(map(len, pieces(body, encoding, 16 * MB)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert sum(sizes) <= 16 * MB
    assert max(sizes) <= 16 * PIECE
    assert peak < 48 * MB


@pytest.mark.parametrize("name", COMPRESSED)
def test_what_is_cut_short_or_damaged_cannot_be_read(name: str) -> None:
    encoding, encode = CODINGS[name]
    body = encode(b"a sentence, and then another one" * 20)

    for broken in (body[:-3], body[: len(body) // 2], b"\xff" * 40):
        with pytest.raises(UnreadableError):
            inflated(broken, encoding, MB)


@pytest.mark.parametrize("name", ["zstd", "gzip"])
def test_frames_in_a_row_are_read_up_to_a_bound(name: str) -> None:
    encoding, encode = CODINGS[name]

    assert inflated(encode(b"one, ") + encode(b"two"), encoding, MB) == b"one, two"
    with pytest.raises(UnreadableError, match="frames"):
        inflated(encode(b"") * (FRAMES + 1), encoding, MB)


def test_a_zstd_stream_may_not_ask_for_a_gigabyte() -> None:
    far = zstandard.ZstdCompressionParameters(window_log=27)
    stream = zstandard.ZstdCompressor(compression_params=far).compressobj()
    body = stream.compress(b"far back " * 1000) + stream.flush()

    with pytest.raises(UnreadableError):
        inflated(body, "zstd", MB)


@pytest.mark.parametrize("encoding", ["compress", "gzip, zstd", "dcb", "utf-8", "rot13"])
def test_what_no_client_uses_is_unreadable(encoding: str) -> None:
    assert not is_known(encoding)
    with pytest.raises(UnreadableError):
        inflated(b"x", encoding, MB)


@pytest.mark.parametrize("name", CODINGS)
def test_a_body_that_is_empty_says_nothing(name: str) -> None:
    assert inflated(b"", CODINGS[name][0], 0) == b""


@pytest.mark.parametrize("name", COMPRESSED)
@given(st.binary(max_size=300))
def test_nothing_but_unreadable_is_raised_whatever_comes(name: str, data: bytes) -> None:
    try:
        inflated(data, CODINGS[name][0], MB)
    except UnreadableError:
        return
