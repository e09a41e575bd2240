from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.encrypted_reasoning import LONGEST, digest, has_encrypted, lighter
from codexpool.protocol.inflate import TooLongError, UnreadableError

MESSAGE = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "grün"}]}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "enc:a:1"}
OTHER = {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "enc:b:2"}
COMPACTED = {"type": "compaction", "encrypted_content": "enc:a:3"}
CALL = {"type": "function_call", "call_id": "c", "name": "n", "arguments": "{}"}


def body(*items: Any, encoding: str = "") -> bytes:
    plain = json.dumps({"model": "m", "input": items, "store": False}).encode()
    return zstandard.ZstdCompressor().compress(plain) if encoding == "zstd" else plain


def items(data: bytes, encoding: str = "") -> list[Any]:
    plain = zstandard.ZstdDecompressor().decompress(data) if encoding == "zstd" else data
    document = json.loads(plain)
    assert {key: document[key] for key in document if key != "input"} == {"model": "m", "store": False}
    return list(document["input"])


@pytest.mark.parametrize("encoding", ["", "zstd", "identity"])
def test_reasoning_goes_and_all_else_stays(encoding: str) -> None:
    made = body(MESSAGE, THOUGHT, CALL, OTHER, MESSAGE, encoding=encoding)

    left = lighter(made, encoding, None)

    assert left is not None
    assert items(left[0], encoding) == [MESSAGE, CALL, MESSAGE]
    assert left[1] == {digest("enc:a:1"), digest("enc:b:2")}


def test_only_what_is_known_to_be_foreign_goes_if_that_is_known() -> None:
    left = lighter(body(MESSAGE, THOUGHT, OTHER), "", {digest("enc:a:1")})

    assert left is not None
    assert items(left[0]) == [MESSAGE, OTHER]
    assert lighter(body(MESSAGE, OTHER), "", {digest("enc:a:1")}) is None


@pytest.mark.parametrize(
    "kept", [COMPACTED, {"type": "reasoning", "summary": []}, {**THOUGHT, "encrypted_content": None}]
)
def test_what_is_no_encrypted_reasoning_is_not_ours_to_lose(kept: dict[str, Any]) -> None:
    assert lighter(body(MESSAGE, kept), "", None) is None
    assert not has_encrypted(body(MESSAGE, kept), "")


def test_a_body_of_several_zstd_frames_is_read_whole() -> None:
    plain = body(MESSAGE, THOUGHT)
    squeeze = zstandard.ZstdCompressor()
    made = squeeze.compress(plain[:20]) + squeeze.compress(plain[20:])

    left = lighter(made, "zstd", None)

    assert left is not None
    assert items(left[0], "zstd") == [MESSAGE]


@pytest.mark.parametrize(
    ("made", "encoding"),
    [(b"not zstd", "zstd"), (b"{", ""), (b"[]", ""), (b"{}", "gzip"), (body(THOUGHT, encoding="zstd")[:-3], "zstd")],
)
def test_what_cannot_be_read_is_left_alone_and_said(made: bytes, encoding: str) -> None:
    with pytest.raises(UnreadableError):
        lighter(made, encoding, None)
    assert not has_encrypted(made, encoding)


@given(st.lists(st.sampled_from([MESSAGE, THOUGHT, OTHER, COMPACTED, CALL, "text", 3]), max_size=8))
def test_a_second_time_there_is_nothing_to_leave_out(some: list[Any]) -> None:
    left = lighter(body(*some), "", None)

    if left is not None:
        assert lighter(left[0], "", None) is None
        assert [item for item in some if item not in (THOUGHT, OTHER)] == items(left[0])


@given(
    st.lists(st.sampled_from([MESSAGE, THOUGHT, OTHER, COMPACTED, CALL, "text, [", 3, None, ["x"]]), max_size=8),
    st.sampled_from([None, (",", ":"), (" ,\n ", " : ")]),
    st.booleans(),
    st.sampled_from([None, {digest("enc:a:1")}]),
)
def test_what_is_left_is_what_was_sent_however_it_was_written(
    some: list[Any], separators: tuple[str, str] | None, in_ascii: bool, known: set[bytes] | None
) -> None:
    def written(items: list[Any]) -> bytes:
        document = {"tools": [THOUGHT, [{}]], "n": 1.50, "input": items, "metadata": {"input": [THOUGHT]}}
        return json.dumps(document, separators=separators, ensure_ascii=in_ascii).encode()

    foreign = [THOUGHT, OTHER] if known is None else [THOUGHT]
    left = lighter(written(some), "", known)

    kept = [item for item in some if item not in foreign]
    assert (left is None) == (kept == some)
    if left is not None:
        assert json.loads(left[0]) == json.loads(written(kept))
        assert left[0].isascii()


def test_a_body_of_too_many_parts_is_left_alone() -> None:
    """And takes no memory."""
    for text in (b'{"input":[' + b"[]," * 300_000 + b"0]}", b'{"input":["' + b" " * (LONGEST + 1) + b'"]}'):
        made = zstandard.ZstdCompressor().compress(text)
        tracemalloc.start()
        try:
            with pytest.raises(UnreadableError):
                lighter(made, "zstd", None)
            assert not has_encrypted(made, "zstd")
            assert tracemalloc.get_traced_memory()[1] < 4 * LONGEST
        finally:
            tracemalloc.stop()


def test_one_that_is_longer_than_may_be_read_now_says_so() -> None:
    made = zstandard.ZstdCompressor().compress(body(MESSAGE, THOUGHT) + b" " * 2_000)
    with pytest.raises(TooLongError):
        lighter(made, "zstd", None, 1_000)
    with pytest.raises(TooLongError):
        has_encrypted(made, "zstd", 1_000)
