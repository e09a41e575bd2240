"""A PostgreSQL of the fleet's own (until tests/postgres.py)."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

BIN = Path("/usr/lib/postgresql/15/bin")
AS = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]
PASSWORD = "database-password-0123456789abcdef"


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Database:
    def __init__(self, port: int = 5432) -> None:
        self.port = port or _free()
        self.folder = Path(tempfile.mkdtemp(prefix="codexpool-real-", dir="/tmp"))
        shutil.chown(self.folder, "postgres")
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        shutil.chown(secret, "postgres")
        self._run(
            "initdb",
            "-D",
            self.data,
            "-U",
            "codexpool",
            f"--pwfile={secret}",
            "-A",
            "scram-sha-256",
            "-N",
            "--no-instructions",
        )
        with (Path(self.data) / "pg_hba.conf").open("a") as hba:
            hba.write("host all all 10.0.0.0/8 scram-sha-256\n")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def url(self, address: str) -> str:
        return f"postgresql://codexpool@{address}:{self.port}/postgres"

    def start(self) -> None:
        options = f"-c listen_addresses=* -c fsync=off -c unix_socket_directories= -c port={self.port}"
        self._run("pg_ctl", "-D", self.data, "-l", str(self.folder / "log"), "-w", "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def signal(self, number: int) -> None:
        pid = int((Path(self.data) / "postmaster.pid").read_text().split()[0])
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), number)
        os.kill(pid, number)

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def end(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [*AS, str(BIN / program), *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
            timeout=60,
            cwd="/",
        )
