"""What `codexpool.proxy.connections` does about how mitmproxy ends its connections."""

from __future__ import annotations

import asyncio
import socket

import pytest
from mitmproxy.connection import ConnectionState, Server

from codexpool.proxy.connections import _PatientLock, _Reader


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
