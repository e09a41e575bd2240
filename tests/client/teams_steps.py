"""docs/teams.md, "From an empty machine to a second person's first answer", command by command.

Runs the real `codexpool` and `codex` inside a network namespace, as root, with the real host names and the stand-in
on port 443. The operator and ann have separate, empty homes. The proxy listens on an address that other machines
could reach. Prints one JSON line for `test_shipped_defaults.py`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
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

from codexpool.cli.entry import CODEXPOOL
from tests.client.readme_steps import NewUser
from tests.namespaced import enter
from tests.running import ROOT, codex, finished, pat, until
from tests.standin import RESPONSES, StandIn

SIOCSIFADDR = 0x8916
ADDRESS = "10.9.8.7"
PROXY = f"http://{ADDRESS}:8080"
INVITATION = "ann.sh"
ME = (
    "printf 'Authorization: Bearer %s' \"$CODEX_ACCESS_TOKEN\" |"
    ' curl -s -x "$HTTPS_PROXY" --cacert "$CODEX_CA_CERTIFICATE" -H @- https://codex.pool/me'
)


def have_address() -> None:
    """Give this machine an address that other machines could reach."""
    of_lo = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(ADDRESS))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFADDR, of_lo)


class Teammate:
    """A member with an empty home, `codex`, and what the operator handed over."""

    def __init__(self, home: Path) -> None:
        self.home = home
        programs = home.with_name("programs")
        programs.mkdir()
        script = programs / "codexpool"
        script.write_text(f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(ROOT))} exec {shlex.join(CODEXPOOL)} "$@"\n')
        script.chmod(0o755)
        path = os.pathsep.join((str(programs), str(Path(str(codex())).parent), os.environ["PATH"]))
        self.environ = {"PATH": path, "HOME": str(home), "NO_PROXY": "chatgpt.com"}  # as on some machines

    def shell(self, *lines: str) -> dict[str, Any]:
        """Run lines of bash. Return exit code, output and duration in seconds."""
        begun = time.monotonic()
        run = finished(["bash", "-c", "\n".join(lines)], self.environ, self.home)
        return {"code": run.returncode, "out": run.stdout, "err": run.stderr, "seconds": time.monotonic() - begun}

    def codex(self, key: str, word: str) -> dict[str, Any]:
        """Run codex as docs/teams.md says, with a key."""
        return self.shell(
            f". ./{INVITATION}",
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
    result: dict[str, Any] = {}
    with StandIn([work], folder=folder, port=443) as standin, log.open("wb") as out:
        operator, ann = NewUser(homes["operator"], standin.ca_file), Teammate(homes["ann"])
        operator.codexpool("add", "work", "--token-stdin", stdin=work.token)
        setup = json.loads(operator.codexpool("setup", "--json").stdout)
        operator.codexpool("member", "add", "ann", "--invite", INVITATION, "--proxy", PROXY)
        invitation = (operator.home / INVITATION).read_text()
        (key,) = re.findall(r"^export CODEX_ACCESS_TOKEN=(\S+)$", invitation, re.MULTILINE)
        trusted = f"ssl_verify_upstream_trusted_ca={standin.ca_file}"
        proxy = subprocess.Popen(
            [*CODEXPOOL, "run", "--listen-host", "0.0.0.0", "-p", "8080", "--set", trusted],
            env=operator.environ,
            cwd=operator.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )

        def wait_for(text: str) -> None:
            until(lambda: text in log.read_text(), 30, f"{text!r} in:\n{log.read_text()}")

        def changed(change: Callable[[], object]) -> None:
            times = log.read_text().count("was reloaded")
            change()
            until(lambda: log.read_text().count("was reloaded") > times, 10, "the change to be noticed")

        try:
            wait_for("work is ready")
            # ann gets one file
            (ann.home / INVITATION).write_text(invitation)
            fingerprint = 'openssl x509 -in "$CODEX_CA_CERTIFICATE" -noout -fingerprint -sha256'
            result["fingerprints"] = [setup["sha256"], ann.shell(f". ./{INVITATION}", fingerprint)["out"].strip()]
            result["shown"] = setup["sha256"] in invitation and ME.partition("|")[0] in invitation
            result["answers"] = [ann.codex(key, "one")]
            # with codexpool installed
            env = f'eval "$(codexpool env --proxy {PROXY} --ca "$CODEX_CA_CERTIFICATE")"'
            run = ann.shell(
                f". ./{INVITATION}; {env}",
                "codexpool doctor >&2 && codex exec --skip-git-repo-check 'say hi echo:two'",
            )
            result["answers"].append(run)
            result["me"] = ann.shell(f". ./{INVITATION}", ME)
            # a new key while the old one is still valid, then none
            rotated: list[str] = []
            changed(lambda: rotated.append(operator.codexpool("member", "rotate", "ann").stdout.strip()))
            result["answers"] += [ann.codex(one, word) for one, word in ((key, "three"), (rotated[0], "four"))]
            model_calls = len(standin.requests(RESPONSES))
            changed(lambda: operator.codexpool("member", "revoke", "ann"))
            result["revoked"] = [ann.codex(one, "five") for one in (key, rotated[0])]
            result["calls after"] = len(standin.requests(RESPONSES)) - model_calls
            result["usage"] = json.loads(operator.codexpool("usage", "--by", "member", "--json").stdout)["rows"]
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(20)
        shown = "".join(operator.output) + log.read_text()
        result["keys shown"] = [shown.count(one) for one in (key, *rotated)]  # once each, when created
        result["refusals"] = standin.refusals
        result["hosts"] = sorted({one.host for one in standin.seen})
        result["leaks"] = len(standin.leaks)
        result["output"] = shown
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
