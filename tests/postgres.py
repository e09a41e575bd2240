"""PostgreSQL for tests: a server of one's own, or one for the whole run, in which each test has a schema of its own.

Also without pytest: ``with Server(folder) as server: …``. The server runs as the user ``postgres`` if the tests are
root's, for it refuses to be root's own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

VARIABLE = "CODEXPOOL_TEST_POSTGRES"
"""``required``: missing binaries are a failure, and not a reason to skip."""

USER, PASSWORD, DATABASE = "codexpool", "s3cret-of-the-database", "codexpool"
SETTINGS = {"fsync": "off", "max_connections": "200", "shared_buffers": "32MB", "max_wal_size": "128MB"}


def binaries() -> Path | None:
    """Return the folder of the newest server on this machine."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if on_path := shutil.which("postgres"):
        found.append(Path(on_path).resolve().parent)
    return max(found, key=lambda folder: folder.parent.name, default=None)


class Server:
    """A server in a folder of its own, which is removed at the end. It listens on ``address`` and a free port."""

    def __init__(
        self, folder: Path | None = None, address: str = "127.0.0.1", port: int = 0, **settings: str
    ) -> None:
        bin_folder = binaries()
        assert bin_folder is not None, "there is no PostgreSQL on this machine"
        self._bin = bin_folder
        # Not below pytest's folders, which are closed to the user postgres.
        self.folder = folder or Path(tempfile.mkdtemp(prefix="codexpool-postgres-", dir="/tmp"))
        self.address = address
        self.host = "127.0.0.1" if address in ("*", "0.0.0.0") else address
        self.port = port or _free_port()
        self._settings = {**SETTINGS, **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.create()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def url(self, schema: str = "", password: str = PASSWORD, host: str = "") -> str:
        """Return the URL of the database, or of a schema in it."""
        options = f"?options=-csearch_path%3D{schema}" if schema else ""
        return f"postgresql://{USER}:{password}@{host or self.host}:{self.port}/{DATABASE}{options}"

    def new_schema(self) -> str:
        """Create a schema, and return its URL."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.sql(f"CREATE SCHEMA {name} AUTHORIZATION {USER}")
        return self.url(name)

    def create(self) -> None:
        """Create the folder of the server, with a user whose password is asked for on every address."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self.folder.chmod(0o700)
        made = [str(self._bin / "initdb"), "-D", str(self._data), "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run([*_as_postgres(), *made, "--encoding=UTF8", "--locale=C"], check=True, capture_output=True)
        rules = ["local all all trust", *(f"host all all {net} scram-sha-256" for net in ("0.0.0.0/0", "::/0"))]
        _write(self._data / "pg_hba.conf", "".join(f"{rule}\n" for rule in rules))
        self.start()
        self.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'", "postgres")
        self.sql(f"CREATE DATABASE {DATABASE} OWNER {USER}", "postgres")
        self.stop()

    def start(self, ends_with_us: bool = True) -> None:
        """Start it, and wait until it answers."""
        assert self._process is None
        settings = {**self._settings, "listen_addresses": self.address, "port": str(self.port)}
        command = [str(self._bin / "postgres"), "-D", str(self._data), "-k", str(self.folder)]
        command += [f"--{name}={value}" for name, value in settings.items()]
        with (self.folder / "log").open("ab") as log:
            ends = () if not ends_with_us else ("setpriv", "--pdeathsig=INT")
            self._process = subprocess.Popen([*_as_postgres(), *ends, *command], stdout=log, stderr=log)
        ready = [str(self._bin / "pg_isready"), "-q", "-h", str(self.folder), "-p", str(self.port)]
        for _ in range(600):
            if subprocess.run(ready, check=False).returncode == 0:
                return
            assert self._process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"PostgreSQL does not start: {self.log()}")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT closes all connections at once, SIGQUIT is like a crash. Its data stays."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(30)

    @property
    def has_ended(self) -> bool:
        """Whether it has stopped of itself."""
        return self._process is not None and self._process.poll() is not None

    def freeze(self) -> None:
        """Stop all its processes where they are, as if the machine hung: connections stay, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def pids(self) -> list[int]:
        """Return the processes of the server: the first one, and one for each connection and task."""
        assert self._process is not None
        return [self._process.pid, *_children(self._process.pid)]

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def remove(self) -> None:
        if self._process is not None:
            self.thaw()
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = DATABASE) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the server, past all passwords."""
        import psycopg

        with psycopg.connect(
            host=str(self.folder), port=self.port, user="postgres", dbname=database, autocommit=True
        ) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    @property
    def _data(self) -> Path:
        return self.folder / "data"


def _as_postgres() -> Sequence[str]:
    if os.geteuid() != 0:
        return ()
    return ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups")


def _write(path: Path, text: str) -> None:
    path.write_text(text)  # The file is there already, and stays the server's.


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


GUARD = 'while kill -0 "$1" 2>/dev/null; do sleep 0.5; done; kill -INT "$2"; sleep 3; rm -rf "$3"'


def shared(base: Path, owner: int) -> Server:
    """Return the server of this run: who comes first starts it. It ends with the process ``owner``.

    ``base`` is a folder that all workers of the run share.
    """
    import filelock

    described = base / "postgres-server"
    with filelock.FileLock(base / "postgres.lock", timeout=120):
        if described.exists():
            folder, port = described.read_text().split()
            return Server(Path(folder), port=int(port))
        server = Server()
        server.create()
        server.start(ends_with_us=False)
        assert server._process is not None
        guarded = str(owner), str(server._process.pid), str(server.folder)
        subprocess.Popen(["sh", "-c", GUARD, "guard", *guarded], start_new_session=True)
        described.write_text(f"{server.folder} {server.port}")
        return server
