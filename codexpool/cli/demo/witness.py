"""A script for mitmproxy, loaded before codexpool: notes what the client sent, and what the flow then shows.

Only for the demo. What is on the wire it cannot see, and need not: that the stand-in knows.
"""

from __future__ import annotations

import json
from pathlib import Path

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader

MODEL_PATH = "/backend-api/codex/responses"


class Witness:
    """Writes one JSON line for each request of the model as it comes, and one for each of its answers."""

    def load(self, loader: Loader) -> None:
        loader.add_option("codexpool_demo_notes", str, "", "Where the demo's witness writes.")

    def requestheaders(self, flow: http.HTTPFlow) -> None:
        self._note(flow)

    def response(self, flow: http.HTTPFlow) -> None:
        self._note(flow)

    def _note(self, flow: http.HTTPFlow) -> None:
        if flow.request.path != MODEL_PATH:
            return
        note = {
            "flow": flow.id,
            "headers": list(flow.request.headers.items(multi=True)),
            "status": flow.response.status_code if flow.response else None,
            "comment": flow.comment,
        }
        with Path(ctx.options.codexpool_demo_notes).open("a", encoding="utf-8") as file:
            file.write(json.dumps(note) + "\n")


addons = [Witness()]
