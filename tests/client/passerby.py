"""What an agent starts works as without the proxy: `eval "$(codexpool env)"`, then curl, git and codex, in one shell.

Inside a network namespace of its own, as root, with the real programs; the stand-in on port 443, and a host that is
none of the pool's business, with an authority of its own. Prints a line of JSON for `test_shipped_defaults.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from tests.client.namespace import enter
from tests.client.newcomer import CODEXPOOL, Newcomer, says
from tests.client.teammate import Teammate
from tests.e2e.strangers import ADDRESS, NAME, Stranger
from tests.running import CLIENT, pat, trouble, until
from tests.standin import StandIn

OPTIONS = ("-p", "8080", "--mode", "regular@8080", "--mode", "socks5@8081")


def repository(folder: Path) -> None:
    """A repository that any web server can serve, with one file in it."""
    work = folder.with_name("work")
    git = ["git", "-c", "user.name=kim", "-c", "user.email=kim@example.test"]
    for command in (
        [*git, "init", "-q", "-b", "main", str(work)],
        [*git, "-C", str(work), "commit", "-q", "--allow-empty", "-m", "first"],
        [*git, "clone", "-q", "--bare", str(work), str(folder / "repo.git")],
        [*git, "-C", str(folder / "repo.git"), "update-server-info"],
    ):
        subprocess.run(command, check=True)


def main(folder: Path) -> None:
    enter(folder)
    with (folder / "hosts").open("a") as hosts:
        hosts.write(f"{ADDRESS} {NAME}\n")
    home, files = folder / "home", folder / "files"
    home.mkdir()
    files.mkdir()
    (files / "hello").write_text("from elsewhere")
    repository(files)
    stranger = Stranger(folder / "stranger", files)
    work, saw, log = pat("work"), {}, folder / "proxy.log"
    with StandIn([work], clients=[CLIENT], folder=folder, port=443) as standin:
        operator = Newcomer(home, standin.ca_file)
        operator.codexpool("add", "work", "--token-stdin", stdin=work.token)
        trusted = ("--set", f"ssl_verify_upstream_trusted_ca={standin.ca_file}")
        with log.open("wb") as out:
            proxy = subprocess.Popen(
                [*CODEXPOOL, "run", *OPTIONS, *trusted], env=operator.environ, cwd=home, stdout=out, stderr=out
            )
        try:
            until(partial(says, log, "work is ready"), 30, "work to be ready")
            user = Teammate(home)
            user.environ |= {"CODEX_ACCESS_TOKEN": CLIENT.token, "CURL_CA_BUNDLE": str(stranger.ca_file)}
            user.environ |= {"GIT_SSL_CAINFO": str(stranger.ca_file), "GIT_TERMINAL_PROMPT": "0"}
            # The state is under the home, and so is the note by which `codexpool env` finds the proxy.
            environment = 'eval "$(codexpool env --shell bash)"'
            curl = f"curl -sS -w '|%{{http_version}}' https://{NAME}/hello"
            for name, line in {
                "curl": f"{curl} --http1.1",
                "curl, HTTP/2": f"{curl} --http2",
                "curl, SOCKS": f"{curl} --http1.1 --proxy socks5h://127.0.0.1:8081",
                "git": f"git clone -q https://{NAME}/repo.git cloned && git -C cloned log --format=%s",
                "git, once more": "git -C cloned fetch -v",
                "codex": "codex exec --skip-git-repo-check 'say hi echo:one'",
            }.items():
                run = user.shell("set -e", environment, line)
                saw[name] = {what: run[what] for what in ("code", "out", "err")}
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(40)
        ran = subprocess.CompletedProcess("", 0, saw["codex"]["out"], saw["codex"]["err"])
        print(
            json.dumps(
                {"saw": saw, "trouble": trouble(ran), "refusals": standin.refusals, "leaks": len(standin.leaks)}
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
