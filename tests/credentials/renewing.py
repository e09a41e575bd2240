"""A process that renews a login and is killed, over and over: ``python -m tests.credentials.renewing PATH PROXY CA``.

Each line it reads is a number of seconds: a child is forked, which renews the login once, as a proxy does, and is
sent SIGKILL if it has not ended after that time. It answers with the child's exit code, or -9.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from codexpool.credentials.auth_json import Login, parse
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.http_client import Route
from codexpool.credentials.token_endpoint import TokenEndpoint


def renew(path: Path, proxy: str, ca: str) -> None:
    login = parse(path.read_text())
    assert isinstance(login, Login)
    FileLogin(path, login, TokenEndpoint(Route(proxy, ca), {}))._renew(login.access, refused=True)


def ended(child: int, deadline: float) -> int:
    """The exit code of a child, which is killed at a moment."""
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    path, proxy, ca = Path(sys.argv[1]), *sys.argv[2:]
    import filelock  # noqa: F401
    import httpx  # what a proxy has imported by then

    assert httpx
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                renew(path, proxy, ca)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(ended(child, time.monotonic() + float(line)), flush=True)


if __name__ == "__main__":
    main()
