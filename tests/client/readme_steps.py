"""The README's section "Use it" and docs/identities.md, command by command, inside a network namespace, as root.

Runs the real `codexpool` and `codex` with an empty home and the real host names, and the stand-in on port 443. Prints
one JSON line for `test_shipped_defaults.py`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from codexpool.cli.entry import CODEXPOOL
from tests.e2e.logins import owner
from tests.namespaced import enter
from tests.running import CLIENT, ROOT, codex, finished, pat, trouble, until
from tests.standin import RESPONSES, StandIn


class NewUser:
    """A user with an empty home, `codex` and `codexpool`."""

    def __init__(self, home: Path, ca_file: Path) -> None:
        self.home = home
        self.environ = {
            "PATH": f"{Path(str(codex())).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "SSL_CERT_FILE": str(ca_file),
            "CODEX_CA_CERTIFICATE": str(ca_file),
        }
        self.output: list[str] = []

    def codexpool(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        run = finished([*CODEXPOOL, *arguments], self.environ, self.home, stdin)
        self.output.append(f"$ codexpool {' '.join(arguments)} -> {run.returncode}\n{run.stdout}{run.stderr}")
        return run

    def listed(self) -> dict[str, Any]:
        return {row["name"]: row for row in json.loads(self.codexpool("list", "--json").stdout)["identities"]}

    def codex(self, proxy: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        environ = {
            **self.environ,
            "CODEX_ACCESS_TOKEN": CLIENT.token,
            "HTTPS_PROXY": proxy,
            "CODEX_CA_CERTIFICATE": str(self.home / ".mitmproxy" / "mitmproxy-ca-cert.pem"),
        }
        return finished([str(codex()), "exec", "--skip-git-repo-check", *arguments], environ, self.home)


def has(log: Path, text: str) -> bool:
    return text in log.read_text()


def main(folder: Path) -> None:
    enter(folder)
    home = folder / "home"
    home.mkdir()
    work, fresh = pat("work"), pat("fresh")
    fresh.account_id, fresh.user_id = work.account_id, work.user_id
    with StandIn([work, fresh], clients=[CLIENT], folder=folder, port=443) as standin:
        user = NewUser(home, standin.ca_file)
        codes = [user.codexpool("add", "work", "--token-stdin", stdin=work.token).returncode]
        standin.backend.devices.approve(owner("spare"))
        codes.append(user.codexpool("login", "spare", "--device-auth").returncode)
        statuses = {name: row["status"] for name, row in user.listed().items()}
        log = folder / "proxy.log"
        with log.open("wb") as out:
            proxy = subprocess.Popen(
                [*CODEXPOOL, "run", "-p", "8080", "--set", f"ssl_verify_upstream_trusted_ca={standin.ca_file}"],
                env=user.environ,
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        runs = []
        try:
            for name in ("work", "spare"):
                until(partial(has, log, f"{name} is ready"), 30, f"{name} to be ready")
            runs.append(user.codex("http://127.0.0.1:8080", "say hi echo:one"))
            standin.kill(work.token)
            codes.append(user.codexpool("check").returncode)
            after_check = user.listed()["work"]["status"]
            until(lambda: "work needs_replacement" in log.read_text(), 10, "the proxy to see the flag")
            codes.append(user.codexpool("replace", "work", "--token-stdin", stdin=fresh.token).returncode)
            until(lambda: log.read_text().count("work is ready") == 2, 10, "the new token to serve")
            codes.append(user.codexpool("pause", "spare").returncode)
            until(lambda: "spare is paused" in log.read_text(), 10, "the pause")
            runs.append(user.codex("http://127.0.0.1:8080", "say hi echo:two"))
            codes += [
                user.codexpool(*words).returncode for words in (("resume", "spare"), ("config", "check"), ("check",))
            ]
            last = user.listed()
            codes.append(user.codexpool("remove", "spare").returncode)
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(10)
        shown = "".join(user.output) + log.read_text()
        print(
            json.dumps(
                {
                    "codes": codes,
                    "statuses": statuses,
                    "after the check": after_check,
                    "at last": {name: row["status"] for name, row in last.items()},
                    "used": [name for name, row in last.items() if row["last_used"]],
                    "answers": [run.stdout for run in runs],
                    "exit codes": [run.returncode for run in runs],
                    "trouble": [sign for run in runs for sign in trouble(run)],
                    "refusals": standin.refusals,
                    "leaks": len(standin.leaks),
                    "model calls": [(seen.name, seen.status) for seen in standin.requests(RESPONSES)],
                    "renewals": standin.refreshes,
                    "secrets shown": re.findall(r"at-test-\S+|rt_test\S+|eyJ\S+", shown),
                    "output": "".join(user.output),
                    "mode": oct((home / ".config" / "codexpool" / "pool.toml").stat().st_mode & 0o777),
                }
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
