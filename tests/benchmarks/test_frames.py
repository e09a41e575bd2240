"""The benchmark's lean frames and events are what other programs take for WebSocket and event streams."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Message, Ping, TextMessage
from wsproto.extensions import PerMessageDeflate

from benchmarks import upstream
from benchmarks.frames import Receiver, Sender, accepted

TEXTS = st.lists(st.text(max_size=300), min_size=1, max_size=8)


def other(side: ConnectionType, deflates: bool = True) -> Connection:
    """Return wsproto's end of a connection whose other one is ours."""
    extension = PerMessageDeflate()
    extension._enabled = True
    return Connection(side, [extension] if deflates else [])


@given(TEXTS, st.booleans())
def test_wsproto_reads_our_frames(texts: list[str], masks: bool) -> None:
    sender, reader = Sender(masks=masks), other(ConnectionType.SERVER if masks else ConnectionType.CLIENT)
    for text in texts:
        reader.receive_data(sender.frame(text.encode()))
    received = [event for event in reader.events() if isinstance(event, Message)]
    assert "".join(event.data for event in received if isinstance(event, TextMessage)) == "".join(texts)
    assert sum(event.message_finished for event in received) == len(texts)


@given(TEXTS, st.booleans(), st.booleans(), st.integers(1, 50))
def test_we_read_the_frames_of_wsproto(texts: list[str], masks: bool, deflates: bool, size: int) -> None:
    """In pieces of any size, with pings between them, compressed or not, masked or not, in fragments."""
    writer = other(ConnectionType.CLIENT if masks else ConnectionType.SERVER, deflates)
    data = b""
    for text in texts:
        half = len(text) // 2
        data += writer.send(TextMessage(text[:half], message_finished=False)) + writer.send(Ping(b"still there?"))
        data += writer.send(TextMessage(text[half:]))
    receiver = Receiver()
    received = b"".join(receiver.feed(data[begin : begin + size]) for begin in range(0, len(data), size))
    assert received.decode() == "".join(texts)
    assert receiver.messages == len(texts)


def test_a_long_message_is_read_in_any_form() -> None:
    for length in (125, 126, 65_535, 65_536):
        text = "x" * length
        assert Receiver().feed(other(ConnectionType.SERVER, deflates=False).send(TextMessage(text))) == text.encode()


def test_a_close_frame_is_an_error() -> None:
    with pytest.raises(EOFError, match="why"):
        Receiver().feed(other(ConnectionType.SERVER).send(CloseConnection(1011, "why")))


def test_the_accepted_key_is_that_of_the_rfc() -> None:
    assert accepted("dGhlIHNhbXBsZSBub25jZQ==") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3


def test_a_burst_is_the_same_for_every_socket() -> None:
    """Each answer goes on with the window of the one before, so one receiver reads them in their order."""
    bursts, receiver = upstream.Bursts(5), Receiver()
    for number in range(3):
        text = b"".join(map(receiver.feed, bursts.answer(number)))
        assert text == b"".join(upstream.texts(5))
    assert receiver.messages == 3 * 7
    assert bursts.answer(0) is bursts.answer(0)


def test_an_answer_is_an_event_stream_that_ends() -> None:
    *chunks, end = upstream.chunks(3)
    types = []
    for chunk in chunks:
        size, _, rest = chunk.partition(b"\r\n")
        event, data = rest[: int(size, 16)].decode().split("\n")[:2]
        document = json.loads(data.removeprefix("data: "))
        assert event == f"event: {document['type']}"
        types.append(document["type"])
    assert types == ["response.created", *["response.output_text.delta"] * 3, "response.completed"]
    assert end == b"0\r\n\r\n"
