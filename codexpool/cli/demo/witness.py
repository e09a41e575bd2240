"""The demo's mitmproxy script, loaded before codexpool: notes the headers of the client and of the flow."""

from __future__ import annotations

import json
from pathlib import Path

from mitmproxy import ctx, http
from mitmproxy.addonmanager import Loader

MODEL_PATH = "/backend-api/codex/responses"


class Witness:
    """Writes a JSON line for each turn and for each of its responses."""

    def load(self, loader: Loader) -> None:
        loader.add_option("codexpool_demo_notes", str, "", "File the demo's witness writes to.")

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
