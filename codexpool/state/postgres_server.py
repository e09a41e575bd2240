"""The PostgreSQL server: connected to, checked, and migrated. Every wait for it is bounded."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import Dialect
from sqlalchemy.dialects.postgresql import dialect

from codexpool.state import StateError, UnavailableError
from codexpool.state.location import VARIABLE, Postgres
from codexpool.state.migrations import steps
from codexpool.state.schema import LACKING, VERSION, schema

ANSWER: Final = 10.0  # Seconds for an answer to a statement. A server that hangs answers the kernel's keepalives.
CONNECT: Final = 3  # Seconds to connect to each of the hosts that the URL names.

# The server learns by keepalives which connections the network lost, and gives up the locks of a proxy that hangs.
SETTINGS: Final = {
    "statement_timeout": "8s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "8s",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
PARAMETERS: Final = {  # Of our side of the connection, unless the URL says otherwise.
    "connect_timeout": str(CONNECT),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": str(round(ANSWER * 1000)),
}
ENCODING: Final = {"client_encoding": "UTF8"}  # Whatever else is said: with SQL_ASCII, texts are bytes.

PASSWORDS: Final = f"in {VARIABLE}, PGPASSWORD or the file that PGPASSFILE names"
ROOT_CERTIFICATE: Final = (
    "name the file that has the CA of the server's certificate: sslrootcert=PATH in the URL (of public CAs:"
    " /etc/ssl/certs/ca-certificates.crt)"
)
REMEDIES: Final = (  # By SQLSTATE, or by what the server says when it refuses a connection.
    ("28P01", "password authentication failed", f"correct the user or the password: {PASSWORDS}"),
    ("28P01", "no password supplied", f"give the password: {PASSWORDS}"),
    ("28000", "no pg_hba.conf entry", "let this machine in: see pg_hba.conf of the server"),
    ("", "root certificate file", ROOT_CERTIFICATE),
    ("", "certificate verify failed", ROOT_CERTIFICATE),
    ("", "server does not support SSL", "switch TLS on at the server"),
    ("3D000", "does not exist", f"create the database and its user, or name others in {VARIABLE}"),
    ("3F000", "no schema has been selected", f"create the schema that {VARIABLE} names"),
    ("42501", "permission denied", "let the user create tables there: GRANT CREATE ON SCHEMA … TO …"),
    ("53300", "too many clients", "raise max_connections of the server"),
    ("53300", "too many connections", "raise max_connections of the server, or the limit of the user or database"),
    ("53300", "remaining connection slots", "raise max_connections of the server"),
    ("53100", "No space left", "make room on the disk of the server"),
    ("25006", "read-only", f"name the primary server in {VARIABLE}"),
)
OTHERWISE: Final = f"check that the server runs and that this machine reaches it, or correct {VARIABLE}"

DIALECT: Final[Dialect] = dialect()  # type: ignore[no-untyped-call]
# Not to_regclass: what it has not found it may not find later in a transaction, after the wait for a lock.
HAS_TABLE: Final = (
    "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema() AND tablename = 'codexpool_schema'"
)
COLUMNS: Final = (
    "SELECT table_name || '.' || column_name FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = ANY(%s)"
)


class Connection(psycopg.Connection[Any]):
    """A connection of which each answer takes `ANSWER` seconds at most."""

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        try:
            return super().wait(gen, interval, ANSWER if timeout is None else timeout)
        except errors._WaitTimeout:
            if timeout is None:
                self.close()
                raise psycopg.OperationalError(f"no answer within {ANSWER:.0f} s") from None
            raise


def parameters(at: Postgres) -> dict[str, Any]:
    """Return the parameters of a connection. Raises StateError if the URL is invalid: libpq's words may have it."""
    given = None
    with contextlib.suppress(psycopg.Error):
        given = conninfo_to_dict(at.url) if at.is_valid else None
    if given is None:
        what, remedy = f"{VARIABLE} is no valid URL of PostgreSQL", "write postgresql://USER@HOST:5432/DATABASE"
        raise StateError(what, f"{remedy}, with special characters percent-encoded (@ is %40, / is %2F)")
    name = {"application_name": f"codexpool@{socket.gethostname()}"[:60]}
    return {**PARAMETERS, **name, **given, **ENCODING}


def connect(how: Mapping[str, Any], autocommit: bool = False) -> Connection:
    try:
        connection = Connection.connect(**how, autocommit=True)
    except UnicodeError:
        raise psycopg.OperationalError("the name of the host is invalid") from None
    try:
        connection.execute(_settings(how).encode())
        connection.autocommit = autocommit
    except BaseException:
        connection.close()
        raise
    return connection


def _settings(how: Mapping[str, Any]) -> str:
    """Return the statements for `SETTINGS` that the URL does not have. PgBouncer refuses them as ``options``."""
    options = str(how.get("options") or os.environ.get("PGOPTIONS", ""))
    return "; ".join(f"SET {name} = '{value}'" for name, value in SETTINGS.items() if name not in options)


def prepare(connection: Connection, name: str, creates: bool) -> None:
    """Check the tables of the database ``name``, and make or migrate them. Raises StateError, psycopg.Error."""
    with connection.transaction():
        version = _version(connection)
        if version < VERSION and creates:
            # One proxy makes them, the others wait here, and find them.
            connection.execute("SELECT pg_advisory_xact_lock(hashtext('codexpool'), hashtext(current_schema()))")
            version = _version(connection)
            if version < VERSION:
                _refuse_foreign(connection, version, name)
                _migrate(connection, version)
                version = VERSION
        if version > VERSION:
            what = f"{name} was written by a newer codexpool (schema {version}; this version supports {VERSION})"
            raise StateError(what, "update codexpool")
        if version < VERSION:
            what = f"{name} has no state of this version of codexpool"
            raise UnavailableError(what, "start a proxy, which makes or updates it")
        if missing := _missing(connection):
            raise StateError(f"{name} lacks {min(missing)}", LACKING)


def _version(connection: Connection) -> int:
    if not _value(connection, HAS_TABLE):
        return 0
    return int(_value(connection, "SELECT version FROM codexpool_schema") or 0)


def _migrate(connection: Connection, version: int) -> None:
    if version == 0:
        connection.execute("CREATE TABLE codexpool_schema (version integer NOT NULL)")
        connection.execute("INSERT INTO codexpool_schema VALUES (0)")
    for statement in steps(version, uuid.uuid4().hex, DIALECT):
        connection.execute(statement.encode())
    connection.execute("UPDATE codexpool_schema SET version = %s", (VERSION,))


def _refuse_foreign(connection: Connection, version: int, name: str) -> None:
    present = connection.execute(COLUMNS, (list(schema.tables),)).fetchall()
    if version == 0 and present:
        what = f"{name} has tables of another program ({min(present)[0].partition('.')[0]})"
        raise StateError(what, f"name another database or schema in {VARIABLE}")


def _missing(connection: Connection) -> set[str]:
    present = {column for (column,) in connection.execute(COLUMNS, (list(schema.tables),))}
    return {f"{table.name}.{column.name}" for table in schema.tables.values() for column in table.columns} - present


def _value(connection: Connection, query: str) -> Any:
    row = connection.execute(query.encode()).fetchone()
    return row[0] if row is not None else None


def remedy_of(error: BaseException) -> str:
    """Return what to do about an error."""
    code, said = getattr(error, "sqlstate", None), str(error)
    return next((do for state, words, do in REMEDIES if code == state or (code is None and words in said)), OTHERWISE)
