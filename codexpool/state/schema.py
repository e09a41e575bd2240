"""The tables of the state, for both engines.

`revision` counts the transactions that had news, `writer` is the process that wrote: one query finds what others
wrote since. A dropped condition stays as a row without a status, so that others learn of it.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, Column, Double, Index, LargeBinary, MetaData, Table, Text

VERSION: Final = 5
LACKING: Final = "restore a backup, or empty the schema to begin again"  # What to do if something of it is missing.

schema: Final = MetaData()


def _text(name: str, *, key: bool = False, null: bool = False) -> Column[str]:
    return Column(name, Text, primary_key=key, nullable=null)


def _time(name: str, *, null: bool = False) -> Column[float]:
    return Column(name, Double, nullable=null)


def _count(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False)


def _written() -> tuple[Column[int], Column[str]]:
    return _count("revision"), _text("writer")


def _table(name: str, *columns: Column[Any] | Index) -> Table:
    return Table(name, schema, *columns, sqlite_with_rowid=False)


# ``epoch`` is random: another one means another database, whose revisions say nothing about the one before.
revision: Final = Table("revision", schema, _count("value"), _text("epoch"))

sessions: Final = _table(
    "sessions",
    _text("session", key=True),
    _text("account_id"),
    _text("user_id"),
    _time("at"),
    *_written(),
    Column("moves", BigInteger, nullable=False, server_default="0"),
    Index("sessions_at", "at"),
    Index("sessions_revision", "revision"),
)

metadata: Final = _table(
    "metadata",
    _text("fingerprint", key=True),
    _text("account_id"),
    _text("user_id"),
    _text("plan"),
    Column("fedramp", Boolean, nullable=False),
    _text("origin"),
    _text("routing_override", null=True),
    _time("at"),
    *_written(),
)

conditions: Final = _table(
    "conditions",
    _text("fingerprint", key=True),
    _text("status", null=True),
    _time("since", null=True),
    _time("until", null=True),
    _text("evidence", null=True),
    _time("at"),
    *_written(),
)

records: Final = _table(
    "records",
    _text("name", key=True),
    _text("fingerprint"),
    _text("account_id"),
    _text("user_id"),
    _time("used_at", null=True),
    *_written(),
)

claims: Final = _table("claims", _text("case", key=True), _time("at"))

notes: Final = _table(
    "notes",
    _text("kind", key=True),
    _text("name", key=True),
    _text("note"),
    _time("at"),
    *_written(),
)

# The day is first in the key: queries look for changes among the last days only. Each writer has rows of its own, so
# that no process adds to another one's totals. These changes are no news: others read them by ``at``, when a row was
# written. The columns of the key are the first of the table: with others between them, quick_check of SQLite 3.40
# reports a NULL that is not there, and calls the file broken.
spent: Final = _table(
    "spent",
    *(_text(name, key=True) for name in ("day", "pool", "member", "identity", "model", "writer")),
    *(_count(name) for name in ("turns", "unmetered", "input", "cached", "output", "reasoning")),
    _time("first_at"),
    _time("last_at"),
    _count("revision"),
    Column("at", Double, nullable=False, server_default="0"),
    Index("spent_at", "at"),
)

# One row for each running proxy, written every few seconds: whose row is old is dead. Times by the database's clock.
proxies: Final = _table(
    "proxies",
    _text("writer", key=True),
    _text("host"),
    _text("version"),
    _count("pid"),
    _time("since"),
    _time("at"),
    _count("sessions"),
)

# What a proxy has leased of a member's (or the pool's) bound, see `codexpool.members.shares`. It ends with the
# heartbeat of its writer. Rows without a writer are locked during an exchange; their ``finish`` is the clock.
leases: Final = _table(
    "leases",
    _text("pool", key=True),
    _text("subject", key=True),
    _text("writer", key=True),
    _count("slots"),
    _count("used"),
    _count("waiting"),
    _count("weight"),
    _time("finish"),
    _time("at"),
)

# The logins of identities with ``login = "state"``, encrypted with the key that ``key_id`` names, and for their owner
# only. ``renewing_by`` is the mark of the proxy that renews one, until a time by the database's clock.
logins: Final = _table(
    "logins",
    _text("account_id", key=True),
    _text("user_id", key=True),
    _text("key_id"),
    Column("sealed", LargeBinary, nullable=False),
    _count("generation"),
    _text("refusal"),
    _text("renewing_by", null=True),
    _time("renewing_until", null=True),
    _time("at"),
    *_written(),
)
