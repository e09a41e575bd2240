"""docs/teams.md, "From an empty machine to a second person's first answer", command by command.

Inside a network namespace of its own, as root: the operator and ann have a home each, both empty, and the proxy is
reached at an address that others can reach. The real `codexpool` and `codex` as processes, the real host names; the
stand-in on port 443. Prints one JSON line; `test_shipped_defaults.py` looks at it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.client.namespace import enter
from tests.client.newcomer import CODEXPOOL, Newcomer
from tests.running import ROOT, codex, pat, until
from tests.standin import RESPONSES, StandIn

SIOCSIFADDR = 0x8916
ADDRESS = "10.9.8.7"
PROXY = f"http://{ADDRESS}:8080"
CERTIFICATE = "mitmproxy-ca-cert.pem"


def have_address() -> None:
    """Give this machine an address that others could reach."""
    of_lo = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFADDR, of_lo)


class Teammate:
    """Somebody with an empty home, `codex`, and what the operator has handed over."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = home.with_name("programs")
        programs.mkdir()
        script = programs / "codexpool"
        script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(CODEXPOOL)} "$@"\n')
        script.chmod(0o755)
        path = os.pathsep.join((str(programs), str(Path(str(codex())).parent), os.environ["PATH"]))
        self.environ = {"PATH": path, "HOME": str(home), "NO_PROXY": "chatgpt.com"}  # What a machine may have set.

    def shell(self, *lines: str) -> dict[str, Any]:
        """What comes of these lines of bash, and how many seconds it takes."""
        begun = time.monotonic()
        run = subprocess.run(
            ["bash", "-c", "\n".join(lines)],
            env=self.environ,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return {"code": run.returncode, "out": run.stdout, "err": run.stderr, "seconds": time.monotonic() - begun}

    def codex(self, key: str, word: str) -> dict[str, Any]:
        """An answer, with three variables and nothing else."""
        return self.shell(
            "unset NO_PROXY",
            f"export HTTPS_PROXY={PROXY}",
            f'export CODEX_CA_CERTIFICATE="$HOME/{CERTIFICATE}"',
            f"export CODEX_ACCESS_TOKEN={key}",
            f"codex exec --skip-git-repo-check 'say hi echo:{word}'",
        )


def main(folder: Path) -> None:
    enter(folder)
    have_address()
    homes = {name: folder / name / "home" for name in ("operator", "ann")}
    for home in homes.values():
        home.mkdir(parents=True)
    work, log = pat("work", plan="enterprise"), folder / "proxy.log"
    saw: dict[str, Any] = {}
    with StandIn([work], folder=folder, port=443) as standin, log.open("wb") as out:
        operator, ann = Newcomer(homes["operator"], standin.ca_file), Teammate(homes["ann"])
        operator.codexpool("add", "work", "--token-stdin", stdin=work.token)
        setup = json.loads(operator.codexpool("setup", "--json").stdout)
        key = operator.codexpool("member", "add", "ann").stdout.strip()
        trusted = f"ssl_verify_upstream_trusted_ca={standin.ca_file}"
        proxy = subprocess.Popen(
            [*CODEXPOOL, "run", "--listen-host", "0.0.0.0", "-p", "8080", "--set", trusted],
            env=operator.environ,
            cwd=operator.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

        def says(text: str) -> None:
            until(lambda: text in log.read_text(), 30, f"{text!r} in:\n{log.read_text()}")

        def changed(change: Callable[[], object]) -> None:
            times = log.read_text().count("is in force")
            change()
            until(lambda: log.read_text().count("is in force") > times, 10, "the change to be noticed")

        try:
            says("work is ready")
            # the three things that ann is given
            (ann.home / CERTIFICATE).write_bytes((operator.home / ".mitmproxy" / CERTIFICATE).read_bytes())
            (ann.home / "ann.key").write_text(f"{key}\n")
            saw["fingerprints"] = [
                setup["sha256"],
                ann.shell(f"openssl x509 -in {CERTIFICATE} -noout -fingerprint -sha256")["out"].strip(),
            ]
            saw["answers"] = [ann.codex(key, "one")]
            # with codexpool installed
            told = f'export CODEX_ACCESS_TOKEN={key}; eval "$(codexpool env --proxy {PROXY} --ca {CERTIFICATE})"'
            run = ann.shell(told, "codexpool doctor >&2 && codex exec --skip-git-repo-check 'say hi echo:two'")
            saw["answers"].append(run)
            # another key, with the old one good for a while, and then none
            rotated: list[str] = []
            changed(lambda: rotated.append(operator.codexpool("member", "rotate", "ann").stdout.strip()))
            saw["answers"] += [ann.codex(one, word) for one, word in ((key, "three"), (rotated[0], "four"))]
            model_calls = len(standin.requests(RESPONSES))
            changed(lambda: operator.codexpool("member", "revoke", "ann"))
            saw["revoked"] = [ann.codex(one, "five") for one in (key, rotated[0])]
            saw["calls after"] = len(standin.requests(RESPONSES)) - model_calls
            saw["usage"] = json.loads(operator.codexpool("usage", "--by", "member", "--json").stdout)["rows"]
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(20)
        shown = "".join(operator.said) + log.read_text()
        saw["keys shown"] = [shown.count(one) for one in (key, *rotated)]  # once each, by the command that made it
        saw["refusals"] = standin.refusals
        saw["hosts"] = sorted({one.host for one in standin.seen})
        saw["leaks"] = len(standin.leaks)
        saw["said"] = shown
    print(json.dumps(saw))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
