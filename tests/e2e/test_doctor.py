"""`codexpool doctor` does not disturb the proxy that it looks at, with or without a pool."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from mitmproxy import io as flow_io

from codexpool.cli.main import main
from tests.company import CompanyProxy
from tests.e2e.conftest import Make
from tests.running import CLIENT, pat


@pytest.mark.parametrize("configured", [True, False])
def test_nobody_notices_it(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: bool) -> None:
    dump = tmp_path / "flows"
    more = {"configured": configured, "ready": int(configured), "started": False, "door": False}
    world = make(pat("work"), arguments=("-w", str(dump)), **more)
    proxy = world.proxy
    with CompanyProxy(world.standin, "kim:x") as upstream:
        proxy._command[proxy._command.index("--mode") + 1] = f"upstream:http://{upstream.place}"
        proxy._command[proxy._command.index("connection_strategy=lazy")] = "connection_strategy=eager"
        proxy._command += ["--set", "upstream_auth=kim:x"]
        proxy.start()
        environ = {
            "HOME": str(tmp_path),
            "CODEX_HOME": str(tmp_path),
            "CODEXPOOL_STATE": str(proxy.state),
            "CODEXPOOL_CONFIG": str(proxy.pool),
            "CODEX_ACCESS_TOKEN": CLIENT.token,
            "CODEX_CA_CERTIFICATE": str(proxy.ca_file),
            "HTTPS_PROXY": proxy.url,
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        seen, log = len(upstream.heads), len(proxy.log)

        result = CliRunner().invoke(main, ["doctor", "--json", "--proxy", proxy.url])

        found = [one for one in json.loads(result.stdout)["findings"] if one["about"] in ("probe", "trust")]
        expected = ["ok", "ok", "ok"] if configured else ["wrong", "wrong", "ok"]
        assert [one["level"] for one in found] == expected, result.output
        assert ("is swapped to work" if configured else "the proxy has no pool") in found[0]["text"]
        with proxy.client() as client:
            shown = client.get("http://codex.pool/api/status").json()
        assert (shown["totals"]["requests"], shown["sessions_total"]) == (0, 0)
        not_its_own = [head for head in upstream.heads[seen:] if b"Accept: */*" not in head]
        assert not not_its_own, "no connection of a client led to the backend"
        proxy.stop()

    assert not re.search("warn|error|fail|chatgpt", proxy.log[log:], re.IGNORECASE), proxy.log[log:]
    with dump.open("rb") as file:
        assert list(flow_io.FlowReader(file).stream()) == []
