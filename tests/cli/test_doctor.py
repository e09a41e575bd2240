"""`codexpool doctor`: checks a proxy and this machine, and says what is wrong and how to fix it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from codexpool.cli.commands.doctor import doctor
from codexpool.protocol.headers import PROBE_VERSION
from codexpool.protocol.routes import ROUTES
from tests.cli import terminals
from tests.cli.fakeproxy import identity, status
from tests.doctor.fakes import KEY, FakeProxy, running
from tests.running import until

TOKEN = "at-test-0123456789abcdef"


class Machine:
    """A home, a client, a pool and a proxy, all of them as they should be."""

    def __init__(self, folder: Path, fake: FakeProxy) -> None:
        self.fake = fake
        self.pool = folder / "pool.toml"
        self.pool.write_text(f'[[identity]]\nname = "work"\ntoken = "{TOKEN}"\n')
        self.pool.chmod(0o600)
        program = folder / "codex"
        program.write_text("#!/bin/sh\necho codex-cli 0.169.0 --with-access-token\n")
        program.chmod(0o700)
        self.environ: dict[str, str | None] = {
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "CODEX_HOME": str(folder / "codex-home"),
            "CODEXPOOL_CONFIG": str(self.pool),
            "CODEXPOOL_CODEX": str(program),
            "HTTPS_PROXY": fake.url,
            "https_proxy": None,
            "NO_PROXY": None,
            "no_proxy": None,
            "CODEX_CA_CERTIFICATE": str(fake.authority.ca_file),
            "CODEX_ACCESS_TOKEN": KEY,
        }
        self.tells(probe=PROBE_VERSION)

    def tells(self, **proxy: Any) -> None:
        """What the proxy says of itself."""
        said = {"listens": [f"127.0.0.1:{self.fake.port}"], "pool": str(self.pool), "access": "members", **proxy}
        document = status(identities=[identity()], proxy=said)
        self.fake.documents["/api/status"] = (200, document)

    def run(self, *arguments: str, code: int = 0, **environ: str | None) -> Result:
        """Run it; no secret is in what it prints."""
        arguments = arguments if "--proxy" in arguments else ("--proxy", self.fake.url, *arguments)
        result = CliRunner().invoke(doctor, arguments, env={**self.environ, **environ})
        assert result.exit_code == code, result.output
        assert KEY not in result.output + result.stderr
        assert TOKEN not in result.output + result.stderr
        return result

    def findings(self, code: int = 0, **environ: str | None) -> dict[str, list[dict[str, str]]]:
        """What is found that is no note of the clock, by area."""
        document = json.loads(self.run("--json", code=code, **environ).stdout)
        assert document["version"] == 1
        assert document["wrong"] == sum(finding["level"] == "wrong" for finding in document["findings"])
        found: dict[str, list[dict[str, str]]] = {}
        for finding in document["findings"]:
            assert list(finding) == ["level", "about", "text", "remedy"]
            assert finding["remedy"] or finding["level"] != "wrong"
            found.setdefault(finding["about"], []).append(finding)
        return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("codexpool.doctor.machine.TOLERATED", 1e12)  # The documents of the fake are of one moment.
    with running(tmp_path / "ca") as fake:
        yield Machine(tmp_path, fake)


def test_all_areas_are_checked_in_order(machine: Machine) -> None:
    found = machine.findings()

    areas = [
        "pool",
        "proxy",
        "identities",
        "state",
        "probe",
        "client",
        "trust",
        "version",
        "files",
        "clock",
        "logins",
    ]
    assert list(found) == areas
    assert {finding["level"] for findings in found.values() for finding in findings} == {"ok"}


def test_with_an_invalid_address_of_the_state_the_rest_is_checked(machine: Machine) -> None:
    found = machine.findings(code=1, CODEXPOOL_STATE="host=db password=s3cret")

    assert [finding["level"] for finding in found["state"]] == ["wrong"]
    assert found["pool"][0]["level"] == "ok"
    assert "s3cret" not in str(found)


def test_with_an_invalid_upstream_proxy_the_rest_is_checked(machine: Machine) -> None:
    found = machine.findings(code=1, CODEXPOOL_UPSTREAM_PROXY="socks5://kim:s3cret@corp")

    assert [finding["remedy"] for finding in found["pool"]] == ["correct it, or: unset CODEXPOOL_UPSTREAM_PROXY"]
    assert found["probe"][0]["level"] == "ok"
    assert "s3cret" not in str(found)


def test_the_probe_is_sent_over_http_and_as_a_websocket(machine: Machine) -> None:
    found = machine.findings()["probe"]

    assert [finding["text"].split(":")[0] for finding in found] == ["over HTTP", "as a WebSocket"]
    assert ["upgrade" in headers for headers in machine.fake.probes] == [False, True]
    assert {headers["authorization"] for headers in machine.fake.probes} == {f"Bearer {KEY}"}


def test_no_probe_is_sent_to_a_proxy_that_does_not_know_it(machine: Machine) -> None:
    machine.tells()

    found = machine.findings(code=1)

    assert "older than this command" in found["probe"][0]["text"]
    assert (machine.fake.probes, machine.fake.connects) == ([], 0)


def test_no_probe_is_sent_without_a_known_certificate(machine: Machine) -> None:
    found = machine.findings(code=1, CODEX_CA_CERTIFICATE=None)

    assert [finding["level"] for finding in (*found["probe"], *found["trust"])] == ["note", "wrong"]
    assert machine.fake.probes == []


def test_a_probe_that_bypasses_the_proxy_is_wrong(machine: Machine) -> None:
    machine.fake.answers_probes = False

    assert {finding["level"] for finding in machine.findings(code=1)["probe"]} == {"wrong"}


def test_a_refused_key_has_the_proxys_reason(machine: Machine) -> None:
    machine.fake.says = {"identity": None, "refused": {"status": 401, "reason": "codexpool: revoked"}}

    found = machine.findings(code=1)["probe"]

    assert "refused: 401 revoked" in found[0]["text"]


def test_a_remote_proxy_is_probed_by_its_health(machine: Machine) -> None:
    machine.fake.documents["/api/status"] = (403, {"error": {"message": "this page is for the machine"}})
    assert machine.findings()["proxy"][0]["level"] == "note"
    assert machine.fake.probes == []

    machine.fake.documents["/healthz"] = (200, {"status": "ok", "ready": True, "probe": PROBE_VERSION})
    assert [finding["level"] for finding in machine.findings()["probe"]] == ["ok", "ok"]


def test_without_a_proxy_the_rest_is_checked(machine: Machine) -> None:
    machine.fake.stop()

    found = machine.findings(code=1)

    assert found["proxy"][0]["remedy"].startswith("start one with: codexpool run")
    assert {"pool", "client", "version", "files", "logins"} <= set(found)
    assert machine.fake.probes == []


def test_without_a_local_proxy_the_clients_is_checked(machine: Machine) -> None:
    result = CliRunner().invoke(doctor, ["--json"], env=machine.environ)

    assert result.exit_code == 0, result.output
    assert len(machine.fake.probes) == 2


def test_a_line_has_a_finding_and_its_remedy(machine: Machine) -> None:
    text = machine.run(code=1, NO_PROXY="chatgpt.com").stdout

    line = next(line for line in text.splitlines() if "NO_PROXY" in line)
    assert line.startswith("wrong  client")
    assert line.endswith("-> unset NO_PROXY")
    assert text.splitlines()[-1] == "1 thing is wrong."


def test_narrow_terminals_have_the_remedy_below(machine: Machine) -> None:
    text = machine.run(code=1, NO_PROXY="chatgpt.com", COLUMNS="60").stdout

    assert max(map(len, text.splitlines()[:-1])) <= 60
    assert any(line.lstrip().startswith("-> unset NO_PROXY") for line in text.splitlines())


def test_control_characters_of_a_proxy_are_escaped(machine: Machine) -> None:
    machine.tells(probe=PROBE_VERSION, closed="\x1b[31mred\x07 at-test-fedcba9876543210\nnext")

    text = machine.run(code=1).stdout

    assert "\x1b" not in text
    assert "fedcba9876543210" not in text


def test_routes_prints_the_table_and_checks_nothing(machine: Machine) -> None:
    text = machine.run("--routes").stdout
    rows = json.loads(machine.run("--routes", "--json").stdout)["routes"]

    assert [row["path"] for row in rows] == [route.path for route in ROUTES]
    assert all(route.path in text and route.policy.value in text for route in ROUTES)
    assert "every other host" in text
    assert "passed through" in text
    assert machine.fake.connects == 0


def test_routes_shows_what_pool_toml_moves(machine: Machine) -> None:
    machine.pool.write_text(f'[pool.routes]\n"/backend-api/wham/usage" = "own"\n\n{machine.pool.read_text()}')

    text = machine.run("--routes").stdout
    rows = json.loads(machine.run("--routes", "--json").stdout)["routes"]

    assert "own, lent to members (pool.toml)" in text
    assert [(row["path"], row["policy"]) for row in rows if row["moved"]] == [
        ("/backend-api/wham/usage", "own, lent to members")
    ]


@pytest.mark.parametrize("arguments", [("--client", "/nowhere/codex"), ("--proxy", "ftp://x"), ("--nonsense",)])
def test_wrong_usage_is_2(machine: Machine, arguments: tuple[str, ...]) -> None:
    machine.run(*arguments, code=2)


def test_ctrl_c_ends_it_and_the_client_it_runs(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "codex").write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid'}\nexec sleep 60\n")
    environ: dict[str, Any] = {name: value for name, value in machine.environ.items() if value is not None}

    with terminals.Terminal(tmp_path, "doctor", "--proxy", machine.fake.url, **environ) as terminal:
        terminal.shows("checking the client's version")
        until((tmp_path / "pid").is_file, 20, "the client to run")
        terminal.press("\x03")
        code = terminal.wait()

        assert code == 130
        assert "Traceback" not in terminal.output
        assert "\x1b[32mok" in terminal.output
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
