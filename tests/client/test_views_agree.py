"""The real Codex CLI with a PAT that dies: API, `explain`, page and header table agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mitmproxy import http
from mitmproxy import io as flow_io

from codexpool.proxy import content_view
from codexpool.tokens.bearer import fingerprint
from tests.client.conftest import Make, World
from tests.running import CLIENT, answered, pat, until
from tests.web.browser import Browser, axe, chromium
from tests.web.test_page import OVERFLOWING, violations

pytestmark = pytest.mark.real_client

SITE = "http://codex.pool"


def api(world: World, path: str) -> Any:
    answer = httpx.get(SITE + path, proxy=world.proxy.url, trust_env=False, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def command(world: World, *arguments: str) -> str:
    """Return what `codexpool` prints without a terminal."""
    environ = {**os.environ, "CODEXPOOL_PROXY": world.proxy.url, "COLUMNS": "200"}
    run = subprocess.run(
        [str(Path(sys.executable).with_name("codexpool")), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.fixture
def died(make: Make, transport: str, tmp_path: Path) -> tuple[World, str, str]:
    """A session whose PAT died between two turns: the world, the identity before, and the identity now."""
    world = make(pat("work"), pat("spare"), transport=transport, arguments=("-w", str(tmp_path / "flows")))
    first = answered(world.client.exec("say hi echo:banana"), "banana")
    world.standin.kill(next(token.token for token in world.tokens if token.name == first))
    other = answered(world.client.exec("resume", "--last", "and now echo:apple"), "apple")
    until(lambda: "needs_replacement" in world.pool, 20, "the flag in pool.toml")
    return world, first, other


@pytest.fixture
def browser(died: tuple[World, str, str], tmp_path: Path) -> Iterator[Browser | None]:
    """A browser that uses the proxy. None if Chromium is missing, except in CI."""
    if not os.environ.get("CI") and (chromium() is None or axe() is None):
        yield None
        return
    started = Browser(tmp_path / "browser", proxy=died[0].proxy.url)
    yield started
    started.close()


def test_every_view_of_a_dead_pat_agrees(
    died: tuple[World, str, str], browser: Browser | None, tmp_path: Path
) -> None:
    world, first, other = died
    flows = api(world, "/api/flows?limit=500")["flows"]
    refused = [flow for flow in flows if [a["status"] for a in flow["attempts"]][:1] == [401]]
    assert refused
    flow = api(world, f"/api/flows/{refused[-1]['id']}")
    prints = [fingerprint(next(t.token for t in world.tokens if t.name == name)) for name in (first, other)]

    # the API
    attempts = flow["flow"]["attempts"]
    assert [(a["identity"], a["status"], a["fingerprint"]) for a in attempts] == [
        (first, 401, prints[0]),
        (other, attempts[1]["status"], prints[1]),
    ]
    assert attempts[1]["status"] in (101, 200, 426)  # The client asks for a socket first.
    rows = {row["name"]: row for row in flow["table"]}
    assert rows["authorization"]["sign"] == "~"
    assert fingerprint(CLIENT.token) in rows["authorization"]["client"]
    assert [print_ in value for print_, value in zip(prints, rows["authorization"]["upstream"], strict=True)] == [
        True,
        True,
    ]
    assert rows["user-agent"]["sign"] == "="

    # `explain`, and `status`
    explained = command(world, "explain", flow["flow"]["id"])
    assert re.search(rf"^.*\b{other}\b.*, attempt 2: {attempts[1]['status']}$", explained, re.MULTILINE), explained
    assert "row 7" in explained
    assert all(print_ in explained for print_ in prints)
    identities = {one["name"]: one for one in json.loads(command(world, "status", "--json"))["identities"]}
    assert (identities[first]["status"], identities[other]["status"]) == ("needs_replacement", "ready")
    assert f"codexpool replace {first}" in command(world, "status")

    # the page
    if browser is not None:
        tab = browser.tab()
        for width, scheme in ((360, "light"), (1440, "dark")):
            tab.look(width, scheme)
            tab.open(f"{SITE}/#flow/{flow['flow']['id']}")
            tab.wait("document.querySelector('dialog[open]')?.innerText.includes('row 7')")
            text = tab.run("document.body.innerText + document.querySelector('dialog').innerText")
            assert all(word in text for word in (first, other, *prints))
            assert tab.run(OVERFLOWING) == []
            assert violations(tab, (axe() or Path()).read_text()) == []
            tab.press("Escape")
            tab.wait("!document.querySelector('dialog[open]')")
            assert "needs replacement" in tab.run("document.body.innerText").lower()
            assert tab.run(OVERFLOWING) == []
            assert violations(tab, (axe() or Path()).read_text()) == []
            tab.picture(tmp_path / f"page-{width}-{scheme}.png")
        assert tab.console() == []
        assert {url.split("/")[2] for url in tab.requested() if url.startswith("http")} == {"codex.pool"}

    # the header table of the saved flow
    world.proxy.stop()
    with (tmp_path / "flows").open("rb") as file:
        saved = [one for one in flow_io.FlowReader(file).stream() if one.id == flow["flow"]["id"]]
    assert isinstance(saved[-1], http.HTTPFlow)
    view = content_view.HeadersView().prettify(b"", type("Metadata", (), {"flow": saved[-1]}))
    assert all(print_ in view for print_ in prints)
    assert "row 7" in view
    for text in (explained, view, json.dumps(flow)):
        assert not any(token.token in text for token in (*world.tokens, CLIENT))
