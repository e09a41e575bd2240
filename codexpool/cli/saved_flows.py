"""Flows that were saved, with what codexpool has left in them: dumps of mitmproxy, and HAR files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codexpool.cli.common import Failure
from codexpool.cli.diff_sources import Selected
from codexpool.traces.trace import METADATA
from codexpool.views.formatting import plain

if TYPE_CHECKING:
    from mitmproxy.http import HTTPFlow


def pick(where: Selected) -> HTTPFlow:
    """The flow that is meant (see `codexpool.cli.diff_sources`): without any word on it, the last one of codexpool's.

    A flow has one record for each of its attempts; the last one says most. Raises Failure.
    """
    flows, which = read(where.path), where.which
    if not which:
        return next((flow for flow in reversed(flows) if METADATA in flow.metadata), flows[-1])
    if re.fullmatch(r"-?\d+", which):
        return _numbered(flows, int(which), where)
    found = [flow for flow in flows if flow.id.startswith(which)]
    if len({flow.id for flow in found}) != 1:
        number = len({flow.id for flow in found}) or "no"
        raise Failure(f"{plain(where.path)}: {number} flows have an id that begins with {plain(which)}")
    return found[-1]


def read(path: Path) -> list[HTTPFlow]:
    """The HTTP flows of a file, in its order. Raises Failure.

    A dump whose end is missing, because it is being written or its writer was killed, has what is there of it.
    """
    from mitmproxy.http import HTTPFlow
    from mitmproxy.io import FlowReader

    flows: list[HTTPFlow] = []
    try:
        with path.open("rb") as file:
            for flow in FlowReader(file).stream():
                if isinstance(flow, HTTPFlow):
                    flows.append(flow)
    except OSError as error:
        raise Failure(f"{plain(path)} cannot be read: {error.strerror}") from None
    except Exception:  # FlowReadException mostly, but a file can hold anything.
        if not flows:
            raise Failure(f"{plain(path)} is neither a dump of mitmproxy (-w) nor a HAR file") from None
    if not flows:
        raise Failure(f"{plain(path)} has no HTTP flow")
    return flows


def _numbered(flows: Sequence[HTTPFlow], number: int, where: Selected) -> HTTPFlow:
    """Counted from 1, and from the end with a minus before it."""
    if abs(number) > len(flows):
        raise Failure(f"{plain(where.path)} has {len(flows)} HTTP flows; there is no #{number}")
    return flows[number - 1 if number > 0 else number]
