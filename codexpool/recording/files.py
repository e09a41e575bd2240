"""Recordings as files: mitmproxy's flow files and HAR, read by its own reader, and written as a whole."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from mitmproxy import exceptions, flow, http, websocket
from mitmproxy.addons.savehar import SaveHar
from mitmproxy.io import FlowReader, FlowWriter
from mitmproxy.io.har import fix_headers

from codexpool.common.atomic_replace import sync_folder
from codexpool.recording.anonymize import NOTE
from codexpool.traces.trace import METADATA

# Members of a HAR entry for what HAR has no place for.
HAR_TRACE: Final = "_codexpool"
HAR_NOTE: Final = "_codexpool_recording"
HAR_ID: Final = "_codexpool_flow"
_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class RecordingError(Exception):
    """A file of flows cannot be read or written: what is wrong, and how to fix it."""


class Read(NamedTuple):
    """The HTTP flows of a file; ``is_cut``: its end is missing, as it is being written or its writer was killed."""

    flows: list[http.HTTPFlow]
    is_cut: bool = False


def read(path: Path) -> Read:
    """Read a flow file or a HAR file, whatever its name. Raises RecordingError."""
    try:
        content = path.expanduser().read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from None
    return parse(content, str(path))


def parse(content: bytes, name: str) -> Read:
    """Return the flows in the content of such a file; ``name`` is for errors. Raises RecordingError."""
    flows: list[http.HTTPFlow] = []
    has_json = content.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{"
    try:
        for one in FlowReader(io.BytesIO(content)).stream():
            if isinstance(one, http.HTTPFlow):
                flows.append(one)
    except Exception as error:  # FlowReadException mostly, but a file can have anything in it.
        if has_json or not flows:
            what = "not a HAR file that mitmproxy can read" if has_json else "neither a flow file nor a HAR file"
            reason = f" ({error})" if isinstance(error, exceptions.FlowReadException) else ""
            raise RecordingError(f"{name}: is {what}{reason}") from None
        return Read(flows, is_cut=True)
    if has_json:
        for one, entry in zip(flows, json.loads(content.decode("utf-8-sig"))["log"]["entries"], strict=True):
            _restore(one, entry)
    return Read(flows)


def _restore(one: http.HTTPFlow, entry: dict[str, Any]) -> None:
    """Give a flow what mitmproxy's reader leaves out: all of its headers, and what codexpool added to the entry."""
    for message, saved in ((one.request, entry["request"]), (one.response, entry["response"])):
        if message is not None:
            message.headers = fix_headers(saved["headers"])
            if HAR_NOTE in entry:
                message.raw_content = None
    if not entry["response"]["status"]:
        one.response, one.error = None, flow.Error(str(entry["response"].get("_error") or "no answer"))
    one.comment, one.id = str(entry.get("comment") or ""), str(entry.get(HAR_ID) or one.id)
    added = ((NOTE, entry.get(HAR_NOTE)), (METADATA, entry.get(HAR_TRACE)))
    one.metadata |= {name: value for name, value in added if isinstance(value, dict)}
    if entry.get("_resourceType") == "websocket":
        one.websocket = websocket.WebSocketData()


def dump(flows: Sequence[http.HTTPFlow], as_har: bool) -> bytes:
    if not as_har:
        out = io.BytesIO()
        writer = FlowWriter(out)
        for one in flows:
            writer.add(one)
        return out.getvalue()
    har = SaveHar().make_har(flows)
    for one, entry in zip(flows, har["log"]["entries"], strict=True):
        _annotate(entry, one)
    har["log"]["comment"] = "recorded by codexpool; private values are replaced with pseudonyms, bodies are left out"
    return json.dumps(har, indent=2).encode()


def _annotate(entry: dict[str, Any], one: http.HTTPFlow) -> None:
    """Add to a HAR entry what mitmproxy leaves out, and the sizes of the bodies that were not recorded."""
    note = one.metadata.get(NOTE, {})
    entry |= {"comment": one.comment, HAR_ID: one.id, HAR_NOTE: note}
    if METADATA in one.metadata:
        entry[HAR_TRACE] = one.metadata[METADATA]
    for name in ("request", "response"):
        if size := note.get(f"{name}_bytes"):
            entry[name] |= {"bodySize": size, "comment": "the body was not recorded"}
    if one.request.raw_content is None:
        entry["request"].pop("postData", None)  # mitmproxy writes null for a missing body, and cannot read it.


def check_place(path: Path) -> None:
    """Raise RecordingError where a recording could not be written."""
    real = path.expanduser().resolve()
    if not real.parent.is_dir():
        raise RecordingError(f"{path}: there is no folder {real.parent}; create it first")
    if real.exists() and not real.is_file():
        raise RecordingError(f"{path}: is not a regular file; name another one")
    if not os.access(real.parent, os.W_OK | os.X_OK):
        raise RecordingError(f"{path}: its folder is not writable; name a file elsewhere")


def put(path: Path, content: bytes) -> None:
    """Write a file, readable by its owner only: all of it or nothing, whenever the process is killed.

    Raises RecordingError; the old file is then still there. A symlink stays one.
    """
    real = path.expanduser().resolve()
    new = real.with_name(f".{real.name}.new")
    try:
        new.unlink(missing_ok=True)  # A killed process may have left it.
        with os.fdopen(os.open(new, _CREATE, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        new.replace(real)
    except OSError as error:
        with contextlib.suppress(OSError):
            new.unlink(missing_ok=True)
        raise RecordingError(f"{path}: cannot be written ({error.strerror})") from None
    sync_folder(real.parent)
