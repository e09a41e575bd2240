"""Recordings as files: mitmproxy's flow files and HAR 1.2, read and made, and put in their place as a whole."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from mitmproxy import exceptions, flow, http, websocket
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.net import encoding

from codexpool.common.atomic_replace import sync_folder
from codexpool.recording.taking import NOTE
from codexpool.traces.trace import METADATA

HAR_TRACE: Final = "_codexpool"
HAR_NOTE: Final = "_codexpool_recording"
HAR_ID: Final = "_codexpool_flow"
"""Fields of a HAR entry that HAR itself has no place for."""

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class RecordingError(Exception):
    """A recording cannot be read, made or written: what is wrong, and what mends it."""


def is_har(path: Path) -> bool:
    """Whether a file of that name is a HAR file; any other one is a flow file."""
    return path.suffix.lower() == ".har"


class Read(NamedTuple):
    """The flows of a file. ``is_cut``: its end is missing, because it is being written or its writer was killed."""

    flows: list[flow.Flow]
    is_cut: bool = False


def read(path: Path) -> Read:
    """What is in a flow file or a HAR file, whatever its name. Raises RecordingError."""
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from None
    return parsed(content, str(path))


def parsed(content: bytes, name: str) -> Read:
    """What the content of such a file says; ``name`` is for errors. Raises RecordingError."""
    flows: list[flow.Flow] = []
    is_har = content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{"
    try:
        for one in FlowReader(io.BytesIO(content)).stream():
            flows.append(one)
    except exceptions.FlowReadException as error:
        if is_har or not flows:
            what = "no HAR file that can be read" if is_har else "neither a flow file nor a HAR file"
            raise RecordingError(f"{name}: is {what} ({error})") from None
        return Read(flows, is_cut=True)
    if is_har:
        for one, entry in zip(flows, json.loads(content.decode("utf-8-sig"))["log"]["entries"], strict=True):
            if isinstance(one, http.HTTPFlow):
                _complete(one, entry)
    return Read(flows)


def made(flows: Sequence[http.HTTPFlow], as_har: bool) -> bytes:
    """The content of a file with these flows."""
    if not as_har:
        out = io.BytesIO()
        writer = FlowWriter(out)
        for one in flows:
            writer.add(one)
        return out.getvalue()
    har = SaveHar().make_har([_with_bodies(one) for one in flows])
    for one, entry in zip(flows, har["log"]["entries"], strict=True):
        _annotate(entry, one)
    har["log"]["comment"] = "recorded by codexpool, with stand-ins in place of whatever is somebody's"
    return json.dumps(har, indent=2).encode()


def check_place(path: Path) -> None:
    """Raise RecordingError where a recording could not be written."""
    real = _real(path)
    if real.is_dir():
        raise RecordingError(f"{path}: is a folder; name a file")
    if not real.parent.is_dir():
        raise RecordingError(f"{path}: there is no folder {real.parent}; make it first")
    if real.exists() and not stat.S_ISREG(real.stat().st_mode):
        raise RecordingError(f"{path}: is no regular file; name another one")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise RecordingError(f"{path}: its folder cannot be written to; name a file elsewhere")


def put(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read: all of it or nothing, whenever the process is killed.

    Raises RecordingError; what was there before is then still there.
    """
    real = _real(path)
    new = real.with_name(f".{real.name}.new")
    try:
        new.unlink(missing_ok=True)  # what a killed process left behind
        descriptor = os.open(new, _CREATE, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        new.replace(real)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise RecordingError(f"{path}: cannot be written ({error.strerror})") from None
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(real.parent)


def _real(path: Path) -> Path:
    """Where a file really is: a symlink to it stays one."""
    return path.expanduser().resolve()


# -- what mitmproxy does not put into a HAR file, or does not read out of it


def _with_bodies(one: http.HTTPFlow) -> http.HTTPFlow:
    """The flow with empty bodies for those that are not there: mitmproxy would write null, and not read it again."""
    for message in (one.request, one.response):
        if message is not None and message.raw_content is None:
            message.raw_content = b""
    return one


def _annotate(entry: dict[str, Any], one: http.HTTPFlow) -> None:
    note = one.metadata.get(NOTE, {})
    if one.comment:
        entry["comment"] = one.comment
    entry[HAR_ID], entry[HAR_NOTE] = one.id, note
    if METADATA in one.metadata:
        entry[HAR_TRACE] = one.metadata[METADATA]
    if not one.request.raw_content and note.get("request_bytes"):
        entry["request"]["bodySize"] = note["request_bytes"]
        entry["request"]["comment"] = "the body was not recorded"
    if one.response is not None and not one.response.raw_content and note.get("response_bytes"):
        entry["response"]["bodySize"] = note["response_bytes"]
        entry["response"]["content"]["comment"] = "the body was not recorded"
    if one.response is None and one.error is not None:
        entry["response"]["_error"] = one.error.msg


def _complete(one: http.HTTPFlow, entry: dict[str, Any]) -> None:
    for message, told in ((one.request, entry["request"]), (one.response, entry["response"])):
        if message is not None:
            _as_sent(message, told)
    _time(one, entry.get("timings") or {})
    one.comment = str(entry.get("comment") or "")
    one.id = str(entry.get(HAR_ID) or one.id)
    note = entry.get(HAR_NOTE)
    if isinstance(note, dict):
        one.metadata[NOTE] = note
        for message, name in ((one.request, "request_bytes"), (one.response, "response_bytes")):
            if message is not None and not message.raw_content and note.get(name) != 0:
                message.raw_content = None
    if isinstance(entry.get(HAR_TRACE), dict):
        one.metadata[METADATA] = entry[HAR_TRACE]
    if one.response is not None and one.response.status_code == 0:
        one.response, one.error = None, flow.Error(str(entry["response"].get("_error") or "no answer"))
    if (messages := entry.get("_webSocketMessages")) is not None:
        one.websocket = websocket.WebSocketData(list(_messages(messages)))


def _as_sent(message: http.Message, told: dict[str, Any]) -> None:
    """Give a message its own headers back: mitmproxy leaves out that the body was compressed."""
    content = message.get_content(strict=False)
    message.headers = http.Headers(
        (header["name"].encode("utf-8", "surrogateescape"), header["value"].encode("utf-8", "surrogateescape"))
        for header in told["headers"]
    )
    message.raw_content = content
    if content:
        with contextlib.suppress(ValueError):
            message.raw_content = encoding.encode(content, message.headers.get("content-encoding", "identity"))
    if told.get("httpVersion", "").startswith("HTTP/"):
        message.http_version = told["httpVersion"]
    if isinstance(message, http.Response):
        message.reason = str(told.get("statusText") or "")


def _time(one: http.HTTPFlow, timings: dict[str, Any]) -> None:
    """Give a flow its times back: mitmproxy takes the whole of it for each part."""
    connect, ssl, send, wait, receive = (
        max(0.0, float(timings.get(name) or 0)) / 1000 for name in ("connect", "ssl", "send", "wait", "receive")
    )
    at = one.request.timestamp_start
    one.request.timestamp_end = at + send
    if one.response is not None:
        one.response.timestamp_start = at + send + wait
        one.response.timestamp_end = at + send + wait + receive
    if connect:
        one.server_conn.timestamp_start, one.server_conn.timestamp_tcp_setup = at, at + connect
        one.server_conn.timestamp_tls_setup = at + connect + ssl if ssl else None


def _messages(entries: Iterable[dict[str, Any]]) -> Iterable[websocket.WebSocketMessage]:
    for entry in entries:
        opcode, data = int(entry["opcode"]), str(entry["data"])
        content = data.encode() if opcode == 1 else base64.b64decode(data)
        yield websocket.WebSocketMessage(opcode, entry["type"] == "send", content, float(entry["time"]))
