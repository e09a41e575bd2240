"""Behind a company's proxy that wants a password and reads TLS: everything goes through it, set by two variables."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner
from mitmproxy import io as flow_io
from mitmproxy.http import HTTPFlow

from codexpool.cli.main import main
from codexpool.credentials.upstream_proxy import VARIABLE
from tests.company import CompanyProxy
from tests.e2e.conftest import Make
from tests.e2e.world import served_by, socket_turn
from tests.running import pat

PASSWORD = "p@ss/w#rd?x:9%"


async def test_everything_goes_through_the_proxy_of_a_company(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dump = tmp_path / "flows"
    world = make(pat("work"), started=False, arguments=("-w", str(dump)), door=False)
    proxy, folder = world.proxy, world.proxy.folder
    with CompanyProxy(world.standin, f"DOMAIN\\kim:{PASSWORD}") as company:
        # given: nothing but these two is set
        environ = {
            VARIABLE: f"http://DOMAIN%5Ckim:p%40ss%2Fw%23rd%3Fx%3A9%25@{company.place}",
            "SSL_CERT_FILE": str(company.ca_file),
        }
        for option in (f"ssl_verify_upstream_trusted_ca={world.standin.ca_file}", proxy._command[4]):
            at = proxy._command.index(option)
            del proxy._command[at - 1 : at + 1]
        proxy._environ |= environ
        await asyncio.to_thread(proxy.start)

        # then: clients are served, and the company's proxy has seen it all
        with proxy.client() as client:
            answer = await asyncio.to_thread(world.turn, client)
            await asyncio.to_thread(client.get, "http://plain.example/")
        async with world.socket() as socket:
            assert served_by(await socket_turn(socket)) == served_by(answer) == "work"
        assert {"auth.openai.com", "chatgpt.com", "http://plain.example/"} <= set(company.asked)

        # and: so has a command
        company.asked.clear()
        for name, value in {**environ, "CODEXPOOL_STATE": str(folder / "state.sqlite3"), "HOME": str(folder)}.items():
            monkeypatch.setenv(name, value)
        checked = await asyncio.to_thread(CliRunner().invoke, main, ["check", "--config", str(proxy.pool)])
        assert (checked.exit_code, checked.stderr) == (0, "")
        assert {"auth.openai.com", "chatgpt.com"} <= set(company.asked)
        assert company.refused == 0
        proxy.stop()

    with dump.open("rb") as file:
        flows = [flow for flow in flow_io.FlowReader(file).stream() if isinstance(flow, HTTPFlow)]
    assert [flow for flow in flows if flow.request.scheme == "http"]
    assert not [flow for flow in flows if "proxy-authorization" in flow.request.headers]
    assert "p@ss" not in proxy.log + checked.output
    assert "p%40ss" not in proxy.log + checked.output
