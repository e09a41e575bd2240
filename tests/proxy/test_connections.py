"""What `codexpool.proxy.connections` does about how mitmproxy ends its connections."""

from __future__ import annotations

import asyncio
import itertools
import socket

import h11
import pytest
from h11._readers import ChunkedReader
from h11._receivebuffer import ReceiveBuffer
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.connection import ConnectionState, Server

from codexpool.proxy.connections import _Chunks, _PatientLock, _Reader


@pytest.mark.parametrize(
    ("read", "unread"), [(b"", b""), (b"", b"from it"), (b"refused ", b""), (b"refused ", b"from it")]
)
async def test_bytes_received_before_an_error_are_read_once(read: bytes, unread: bytes) -> None:
    theirs, ours = socket.socketpair()
    ours.setblocking(False)
    stream, server = asyncio.StreamReader(), Server(address=("upstream.test", 443))
    server.state = ConnectionState.OPEN
    reader = _Reader(stream, ours.dup(), server)
    # asyncio has received some of the answer, the rest is in the socket, and then writing fails
    stream.feed_data(read)
    theirs.sendall(unread)
    theirs.close()
    stream.set_exception(ConnectionResetError())

    if read or unread:
        assert await reader.read(65535) == read + unread
    with pytest.raises(ConnectionResetError):
        await reader.read(65535)
    ours.close()


async def test_a_cancelled_task_gets_the_lock_first() -> None:
    lock, did = _PatientLock(), []

    async def hands_over_an_event() -> None:
        async with lock:
            did.append("the event")
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError as error:
            did.append(str(error))
            raise

    await lock.acquire()
    waiting = asyncio.create_task(hands_over_an_event())
    for _ in range(2):
        await asyncio.sleep(0)
        waiting.cancel("closed by command")
    await asyncio.sleep(0)
    assert did == []
    lock.release()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert did == ["the event", "closed by command"]
    assert not lock.locked()


async def test_the_lock_is_a_lock() -> None:
    lock, order = _PatientLock(), []

    async def one(number: int) -> None:
        async with lock:
            order.append(number)
            await asyncio.sleep(0)
            order.append(number)

    await asyncio.gather(*(one(number) for number in range(3)))

    assert order == [0, 0, 1, 1, 2, 2]


# -- chunks


def read(raw: bytes, cuts: list[int], *, whole: bool) -> tuple[bytes, object]:
    """Return the body in ``raw``, received in pieces, and how it ends. What is left in the buffer counts, too."""
    reader, buffer, body = _Chunks(ChunkedReader()), ReceiveBuffer(), b""
    for begin, end in itertools.pairwise([0, *sorted(cuts), len(raw)]):
        buffer += raw[begin:end]
        while True:
            if whole:
                body += b"".join(reader.take_whole(buffer))
            try:
                event = reader(buffer)
            except h11.ProtocolError as error:
                return body, str(error)
            if isinstance(event, h11.EndOfMessage):
                return body, bytes(buffer)
            if event is None:
                break
            body += event.data
    return body, None


SIZES = st.sampled_from(
    [b"3\r\n", b"3\r\n", b"03;x=y\r\n", b"3 \r\n", b"0\r\n", b"2\r\n", b"4\r\n", b"3\n", b"g\r\n", b""]
)
CHUNKS = st.tuples(SIZES, st.sampled_from([b"abc\r\n", b"abc\r\n", b"\r\n\r", b"abc\n", b"abcd\r\n", b"a"])).map(
    b"".join
)


@given(chunks=st.lists(CHUNKS, max_size=6), cuts=st.lists(st.integers(0, 40), max_size=4), data=st.data())
def test_whole_chunks_are_what_h11_reads(chunks: list[bytes], cuts: list[int], data: st.DataObject) -> None:
    raw = b"".join(chunks) + data.draw(
        st.sampled_from([b"", b"0\r\n\r\n", b"0\r\na: b\r\n\r\nmore", b"ffffffffffffffffffff\r\n"])
    )
    cuts = [cut for cut in cuts if cut <= len(raw)]
    assert read(raw, cuts, whole=True) == read(raw, cuts, whole=False)


def test_whole_chunks_are_read_without_h11() -> None:
    reader, buffer = _Chunks(ChunkedReader()), ReceiveBuffer()
    buffer += b"3\r\nabc\r\n2\r\nde\r\n3\r\nf"

    assert reader.take_whole(buffer) == [b"abc", b"de"]
    assert bytes(buffer) == b"3\r\nf"
    assert bytes(reader(buffer).data) == b"f"
    assert reader.take_whole(buffer) == []
    buffer += b"gh\r\n1\r\ni\r\n"
    assert bytes(reader(buffer).data) == b"gh"
    assert reader.take_whole(buffer) == [b"i"]
