"""A process that renews a login and is killed, over and over: `python -m tests.credentials.renewing PROXY CA [PATH]`.

The login is in the file at PATH, else in the state of CODEXPOOL_STATE. Each line that is read is a number of seconds:
a child is forked, which renews the login once, as a proxy does, and is sent SIGKILL if it has not ended after that
time. The answer is the child's exit code, or -9.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from codexpool.credentials.auth_json import Login, parse
from codexpool.credentials.file_login import FileLogin
from codexpool.credentials.http_client import Route
from codexpool.credentials.shared_login import shared_login
from codexpool.credentials.token_endpoint import TokenEndpoint
from codexpool.pool.identity import IdentityKey
from codexpool.state.location import location
from codexpool.state.opening import open_state
from codexpool.upkeep.shared_logins import SharedLogins

OWNER = IdentityKey("acc-spare", "user-spare")  # Of the login in the state.


def renew_file(path: Path, endpoint: TokenEndpoint) -> None:
    login = parse(path.read_text())
    assert isinstance(login, Login)
    FileLogin(path, login, endpoint)._renew(login.access, refused=True)


def renew_shared(endpoint: TokenEndpoint) -> None:
    with contextlib.closing(open_state(location(os.environ))) as state:
        logins = SharedLogins(state.transact, os.environ)
        logins.learn(state.load().logins)
        login = shared_login(OWNER, logins, endpoint)
        login._renew(login.bearer(), refused=True)


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
    proxy, ca, *path = sys.argv[1:]
    endpoint = TokenEndpoint(Route(proxy, ca), {})
    renew = partial(renew_file, Path(path[0]), endpoint) if path else partial(renew_shared, endpoint)
    import cryptography.hazmat.primitives.ciphers.aead
    import filelock
    import httpx  # what a proxy has imported by then

    import codexpool.state.postgres
    import codexpool.state.sqlite

    assert all((cryptography, filelock, httpx, codexpool))
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                renew()
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(ended(child, time.monotonic() + float(line)), flush=True)


if __name__ == "__main__":
    main()
