"""Start mitmproxy's commands quickly: as forks of a process that has already imported mitmproxy and our libraries.

Two thirds of a proxy's start are imports, and the tests start hundreds of proxies. A fork runs what the command runs,
with arguments, environment and files of its own; the addon imports the package again, as it does after a reload.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
LARGEST: Final = 1 << 20  # bytes of a request: arguments and environment


class Fork:
    """A process that was started by the server, with the methods of `subprocess.Popen` that the tests use."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self._text = b""
        self.returncode: int | None = None
        self.pid = int(self._line(None))

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; of a process that a signal has ended, minus its number. Raises TimeoutExpired."""
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("mitmproxy", timeout or 0)
        return code

    def _ended(self, timeout: float | None) -> int | None:
        """Return the exit code, or None if it still runs after ``timeout`` seconds."""
        if self.returncode is None and (text := self._line(timeout)):
            self.returncode = int(text)
            self._answers.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _line(self, timeout: float | None) -> bytes:
        """Return the server's next line, or nothing if there is none within ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while b"\n" not in self._text:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([self._answers], [], [], left)[0]:
                return b""
            if not (more := self._answers.recv(64)):
                raise ConnectionError("the server of forks has ended")
            self._text += more
        line, _, self._text = self._text.partition(b"\n")
        return line


def start(tool: str, arguments: Sequence[str], environ: Mapping[str, str], output: int) -> Fork:
    """Start mitmproxy's command ``tool``, or that of `codexpool run` (``run-…``). ``output`` is a file descriptor."""
    ours, theirs = socket.socketpair()
    request = json.dumps([tool, list(arguments), dict(environ), str(Path.cwd())]).encode()
    assert len(request) < LARGEST
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno(), output]))]
    server = _server()
    server.sendmsg([len(request).to_bytes(4, "big")], rights)
    server.sendall(request)
    theirs.close()
    return Fork(ours)


@cache
def _server() -> socket.socket:
    """Start the server of this process, and return the connection to it. It ends when the connection does."""
    ours, theirs = socket.socketpair()
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "tests.forking", str(theirs.fileno())]
    process = subprocess.Popen(command, env=environ, cwd=ROOT, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    atexit.register(process.wait, 10)
    atexit.register(ours.close)
    return ours


# -- the server's side


def _serve(requests: socket.socket) -> None:
    """Start what is asked for, and report how each process ended."""
    _import()
    read, write = socket.socketpair()
    write.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests.
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests, read], [], [])
        if read in ready:
            read.recv(4096)
            _report(running)
        if requests not in ready:
            continue
        head, descriptors, _, _ = socket.recv_fds(requests, 4, 2)
        if not head:
            return
        request = json.loads(requests.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))
        answers = socket.socket(fileno=descriptors[0])
        if (pid := os.fork()) == 0:
            for connection in (requests, read, write, answers, *running.values()):
                connection.detach() if connection is answers else connection.close()
            os.close(descriptors[0])
            _become(request, descriptors[1])
        os.close(descriptors[1])
        answers.sendall(b"%d\n" % pid)
        running[pid] = answers


def _report(running: dict[int, socket.socket]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        answers = running.pop(pid)
        with contextlib.suppress(OSError):  # The test does not wait for it.
            answers.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        answers.close()


def _import() -> None:
    """Import what a proxy imports. Our own modules are left to the addon, which would import them again."""
    import mitmproxy.tools.dump
    import mitmproxy.tools.main  # noqa: F401

    import codexpool.addon
    import codexpool.state.sqlite
    import codexpool.upkeep.keeper  # noqa: F401

    for name in [name for name in sys.modules if name == "codexpool" or name.startswith("codexpool.")]:
        del sys.modules[name]


def _become(request: Any, output: int) -> None:
    """Run the command in this process, which is a fork, and end it."""
    tool, arguments, environ, folder = request
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.default_int_handler)
        for target in (1, 2):
            os.dup2(output, target)
        os.close(output)
        os.environ.clear()
        os.environ.update(environ)
        os.chdir(folder)
        sys.argv = [tool, *arguments]
        del sys.path[0]  # the checkout, because of `-m`: an installed command finds it only if it is installed there
        code = _run(tool, arguments)
    except SystemExit as end:
        code = _exit_code(end)
    except BaseException:
        traceback.print_exc()
    finally:
        _leave(code)


def _run(tool: str, arguments: list[str]) -> int:
    if tool.startswith("run-"):
        from codexpool.proxy.mitm.master import run

        run(tool.removeprefix("run-"), arguments)
        return 0
    from mitmproxy.tools import main

    getattr(main, tool)()
    return 0


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return end.code or 0
    print(end.code, file=sys.stderr)
    return 1


def _leave(code: int) -> None:
    """End as an interpreter does: wait for threads, run what is registered, write what is buffered."""
    import threading

    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
