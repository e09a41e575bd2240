"""Tools that an agent starts: `eval "$(codexpool env)"`, then curl, git and codex in one shell.

Runs the real programs inside a network namespace, as root, with the stand-in on port 443 and another host with its
own CA. Prints one JSON line for `test_shipped_defaults.py`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

from codexpool.cli.entry import CODEXPOOL
from tests.client.readme_steps import NewUser, has
from tests.client.teams_steps import Teammate
from tests.e2e.strangers import ADDRESS, NAME, Stranger
from tests.namespaced import enter
from tests.running import CLIENT, pat, trouble, until
from tests.standin import StandIn

OPTIONS = ("-p", "8080", "--mode", "regular@8080", "--mode", "socks5@8081")


def repository(folder: Path) -> None:
    """Create a git repository with one commit that a plain web server can serve."""
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
    work, runs, log = pat("work"), {}, folder / "proxy.log"
    with StandIn([work], clients=[CLIENT], folder=folder, port=443) as standin:
        operator = NewUser(home, standin.ca_file)
        operator.codexpool("add", "work", "--token-stdin", stdin=work.token)
        trusted = ("--set", f"ssl_verify_upstream_trusted_ca={standin.ca_file}")
        with log.open("wb") as out:
            proxy = subprocess.Popen(
                [*CODEXPOOL, "run", *OPTIONS, *trusted], env=operator.environ, cwd=home, stdout=out, stderr=out
            )
        try:
            until(partial(has, log, "work is ready"), 30, "work to be ready")
            user = Teammate(home)
            user.environ |= {"CODEX_ACCESS_TOKEN": CLIENT.token, "CURL_CA_BUNDLE": str(stranger.ca_file)}
            user.environ |= {"GIT_SSL_CAINFO": str(stranger.ca_file), "GIT_TERMINAL_PROMPT": "0"}
            # `codexpool env` finds the proxy by its note in the state, which is under the home.
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
                runs[name] = {key: run[key] for key in ("code", "out", "err")}
        finally:
            proxy.send_signal(signal.SIGTERM)
            proxy.wait(40)
        ran = subprocess.CompletedProcess("", 0, runs["codex"]["out"], runs["codex"]["err"])
        print(
            json.dumps(
                {"runs": runs, "trouble": trouble(ran), "refusals": standin.refusals, "leaks": len(standin.leaks)}
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
