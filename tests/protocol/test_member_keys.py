"""Member keys taken out of what a client says."""

from __future__ import annotations

import json

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from codexpool.protocol.inflate import PIECE, UnreadableError
from codexpool.protocol.member_keys import SHOWN, message_without_keys
from codexpool.protocol.member_keys import without_keys as without_keys_to

KEY = "at-pool-test-ann-0123456789abcdefghijklmnopqrstu"


def without_keys(body: bytes, encoding: str) -> bytes | None:
    return without_keys_to(body, encoding, 64 << 20)


def said(text: str) -> bytes:
    return json.dumps({"model": "m", "input": [{"type": "function_call_output", "output": text}]}).encode()


@pytest.mark.parametrize("encoding", ["", "identity", "zstd"])
@given(before=st.text(max_size=50), after=st.text(alphabet=st.characters(exclude_categories=["L", "N", "Pc", "Pd"])))
def test_a_printed_key_is_removed_and_all_else_stays(encoding: str, before: str, after: str) -> None:
    body = said(f"{before}\nCODEX_ACCESS_TOKEN={KEY}\n{after}")
    sent = zstandard.ZstdCompressor().compress(body) if encoding == "zstd" else body

    clean = without_keys(sent, encoding)

    assert clean is not None
    read = zstandard.ZstdDecompressor().decompress(clean) if encoding == "zstd" else clean
    assert json.loads(read) == json.loads(said(f"{before}\nCODEX_ACCESS_TOKEN={SHOWN.decode()}\n{after}"))


@pytest.mark.parametrize("offset", [0, 1, 7, len(KEY) // 2, len(KEY)])
def test_a_key_is_found_across_inflated_pieces(offset: int) -> None:
    body = b" " * (PIECE - offset) + f"{KEY} ".encode() + b" " * PIECE

    clean = without_keys(zstandard.ZstdCompressor().compress(body), "zstd")

    assert clean is not None
    assert KEY.encode() not in zstandard.ZstdDecompressor().decompress(clean)


@pytest.mark.parametrize("encoding", ["", "zstd"])
def test_a_body_without_a_key_is_left_as_it_is(encoding: str) -> None:
    body = said("what is at-pool- for? at-pool-short")
    sent = zstandard.ZstdCompressor().compress(body) if encoding == "zstd" else body

    assert without_keys(sent, encoding) is None


@pytest.mark.parametrize(("body", "encoding"), [(b"\x1f\x8b", "gzip"), (b"no zstd", "zstd")])
def test_what_cannot_be_looked_into_does_not_pass(body: bytes, encoding: str) -> None:
    with pytest.raises(UnreadableError):
        without_keys(body, encoding)


def test_a_message_with_a_key_is_written_anew_in_ascii() -> None:
    clean = message_without_keys(json.dumps({"text": f"é {KEY}"}, ensure_ascii=False).encode())

    assert clean is not None
    assert clean.isascii()
    assert json.loads(clean) == {"text": f"é {SHOWN.decode()}"}
    assert message_without_keys(b'{"text": "at-pool-"}') is None
