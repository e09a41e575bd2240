"""`codexpool member`: manage the members, who use the pool with a key each."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import click

from codexpool.cli import completions
from codexpool.cli.common import (
    NO_MEMBERS,
    NOTICED,
    Failure,
    Pool,
    Unchanged,
    json_option,
    moment,
    name_argument,
    pool_option,
    remark,
    require_new_name,
    require_writable,
)
from codexpool.cli.completions import member_argument
from codexpool.cli.ends import future_end
from codexpool.cli.invitation import Invitation, invitation_options, prepared
from codexpool.cli.output import Column, print_json, print_table
from codexpool.config.model import Access, MemberSpec, PoolConfig, Table, shown
from codexpool.config.read import parse
from codexpool.config.tables import Value, toml, with_key, with_table, without_key, without_table
from codexpool.members.register import KeyStatus, key_status
from codexpool.tokens.bearer import FINGERPRINT_DIGITS
from codexpool.tokens.member_key import hashed, new_key
from codexpool.views.formatting import local_time

STYLES: Final = {KeyStatus.VALID.value: "green", KeyStatus.EXPIRED.value: "yellow", KeyStatus.REVOKED.value: "dim"}

COLUMNS: Final = (
    Column("name", "name"),
    Column("status", "status", style=lambda row: STYLES[row["status"]]),
    Column("expires", "expires", rank=1, shown=local_time),
    Column("identities", "identities", rank=3, shown=lambda patterns: ", ".join(patterns) or "all"),
    Column("at once", "turns_at_once", rank=2, is_number=True),
    Column("a day", "turns_a_day", rank=2, is_number=True),
    Column("old key until", "previous_until", rank=4, shown=local_time),
    Column("fingerprint", "fingerprint", rank=5),
)

UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
LONGEST_GRACE: Final = timedelta(days=365)


def _end(context: click.Context, parameter: click.Parameter, value: str | None) -> date | None:
    """Parse a future day or time with its zone; None for ``never``. Raises click.BadParameter."""
    if value is None or value == "never":
        return None
    return future_end(value, "To end a membership now: codexpool member revoke NAME")


def _grace(context: click.Context, parameter: click.Parameter, value: str) -> timedelta:
    """Parse a duration (``90m``, ``24h``, ``7d``, ``0``). Raises click.BadParameter."""
    found = re.fullmatch(r"0|([0-9]{1,8})([smhd])", value)
    grace = timedelta(**{UNITS[found[2]]: int(found[1])}) if found and found[1] else timedelta()
    if not found or grace > LONGEST_GRACE:
        raise click.BadParameter(f"{shown(value)} is not a duration of at most 365d: use 90m, 24h, 7d, or 0")
    return grace


def _patterns(context: click.Context, option: click.Parameter, patterns: tuple[str, ...]) -> tuple[str, ...]:
    if not all(pattern and pattern.isprintable() for pattern in patterns):
        raise click.BadParameter("a pattern is empty or not printable")
    return patterns


@click.group()
def member() -> None:
    """Manage members: users of the pool, each with a key.

    Clients take a key where they take a personal access token: CODEX_ACCESS_TOKEN, or `codex login
    --with-access-token`. A key is valid for this pool only. pool.toml stores its hash.
    """


@member.command()
@name_argument
@pool_option
@click.option("--expires", metavar="DATE", callback=_end, help="The key's last day (UTC), or a time with its zone.")
@click.option(
    "--identities",
    multiple=True,
    metavar="PATTERN",
    callback=_patterns,
    shell_complete=completions.identities,
    help='Identities that may serve the member: a name or a shell pattern ("team-*"). Repeatable. Default: all.',
)
@click.option("--turns-at-once", type=click.IntRange(min=1), help="Limit of simultaneous turns.")
@click.option("--turns-a-day", type=click.IntRange(min=1), help="Limit of turns a day (UTC).")
@invitation_options
def add(name: str, pool: Pool, invite: Path | None, proxy_url: str | None, ca: Path | None, **options: Any) -> None:
    """Add member NAME, and print the key. It is not shown again.

    The key goes to standard output, or with --invite into a file to send to the member.

    A turn is one request to the model. A prompt takes one turn, and one more for each tool call.

    \b
        codexpool member add ann
        codexpool member add ann --invite ann.sh --proxy http://team:8080
        codexpool member add ci --expires 2027-01-31 --identities "team-*"
    """
    require_new_name(name, pool.config.members, Table.MEMBER)
    if (spec := pool.config.member(name)) is not None:
        raise Failure(
            f"member {name} already exists ({pool.path}:{spec.line}). Use another name, or for a new key: "
            f"codexpool member rotate {name}"
        )
    require_writable(pool.path)
    invitation = prepared(invite, proxy_url, ca)
    key = new_key()
    limits = {option: value for option, value in options.items() if value}
    table: dict[str, Value] = {"name": name, "key": hashed(key), **limits}
    _issue(pool, name, key, invitation, lambda text: with_table(text, table, Table.MEMBER))
    click.echo(f"added {name} to {pool.path}. {_instructions(name, invitation)}", err=True)
    for warning in (*_unmatched(pool.config, options["identities"]), *_openness(pool.config)):
        remark(warning)


@member.command("list")
@pool_option
@json_option
def list_(pool: Pool, as_json: bool) -> None:
    """List the members and their limits, and whether keys are valid.

    Keys are shown as fingerprints.
    """
    rows = [_document(pool.config, spec, time.time()) for spec in pool.config.members]
    if as_json:
        print_json({"members": rows})
        return
    if not rows:
        remark(NO_MEMBERS)
    print_table(COLUMNS, rows)
    for row in rows:
        for warning in _unmatched(pool.config, row["identities"]):
            remark(f"{row['name']}: {warning}")
    for warning in _openness(pool.config) if rows else ():
        remark(warning)


@member.command()
@member_argument
@pool_option
def revoke(name: str, pool: Pool) -> None:
    """Revoke member NAME's keys now.

    The member stays in pool.toml. To readmit it with a new key: codexpool member rotate NAME --reinstate.
    """
    spec = pool.member(name)
    if spec.revoked_at is not None:
        click.echo(f"{name} was already revoked at {local_time(spec.revoked_at)}")
        return
    revoked = datetime.now(UTC)

    def change(text: str) -> str:
        text = with_key(text, name, "revoked", revoked, Table.MEMBER)
        return without_key(text, name, "previous", Table.MEMBER)

    pool.edit(change)
    click.echo(f"{name} is revoked. {NOTICED}")


@member.command()
@member_argument
@pool_option
@click.option(
    "--grace",
    metavar="DURATION",
    callback=_grace,
    default="24h",
    show_default=True,
    help="How long the old key stays valid: 90m, 7d, or 0 to end it now.",
)
@click.option("--reinstate", is_flag=True, help="Readmit a revoked member. Its old key stays invalid.")
@invitation_options
def rotate(
    name: str,
    pool: Pool,
    grace: timedelta,
    reinstate: bool,
    invite: Path | None,
    proxy_url: str | None,
    ca: Path | None,
) -> None:
    """Issue a new key for member NAME, and print it.

    The key goes to standard output, or with --invite into a file. It is not shown again. The old key stays valid for
    a while; any older one ends now.
    """
    spec = pool.member(name)
    is_revoked = spec.revoked_at is not None
    if is_revoked and not reinstate:
        raise Failure(f"{name} is revoked. To readmit it: codexpool member rotate {name} --reinstate")
    require_writable(pool.path)
    invitation = prepared(invite, proxy_url, ca)
    grace = timedelta() if is_revoked else grace
    key, until = new_key(), datetime.now(UTC) + grace

    def change(text: str) -> str:
        old = parse(text, pool.path).member(name)
        text = without_key(text, name, "revoked", Table.MEMBER) if is_revoked else text
        text = with_key(text, name, "key", hashed(key), Table.MEMBER)
        if old is None or not grace:
            return without_key(text, name, "previous", Table.MEMBER)
        return with_key(text, name, "previous", {"key": old.key, "until": until}, Table.MEMBER)

    _issue(pool, name, key, invitation, change)
    old_key = f"the old one is valid until {local_time(until.timestamp())}" if grace else "the old one is invalid now"
    click.echo(f"{name} has a new key; {old_key}. {_instructions(name, invitation)}", err=True)
    if spec.expires_at is not None and spec.expires_at <= time.time():
        remark(f"{name} has expired. To renew it: codexpool member expires {name} never")


@member.command()
@member_argument
@click.argument("end", metavar="DATE|never", callback=_end)
@pool_option
def expires(name: str, end: date | None, pool: Pool) -> None:
    """Set until when member NAME's key is valid.

    DATE is the last day (UTC), or a time with its zone.
    """
    pool.member(name)
    if end is None:
        pool.edit(lambda text: without_key(text, name, "expires", Table.MEMBER))
        click.echo(f"{name} does not expire. {NOTICED}")
    else:
        pool.edit(lambda text: with_key(text, name, "expires", end, Table.MEMBER))
        click.echo(f"{name} expires: {toml(end)}. {NOTICED}")


@member.command()
@member_argument
@pool_option
def remove(name: str, pool: Pool) -> None:
    """Remove member NAME and its keys from pool.toml.

    What the member has used stays in `codexpool usage`. A later member of that name is taken for the same one.
    """
    pool.member(name)
    pool.edit(lambda text: without_table(text, name, Table.MEMBER))
    click.echo(f"removed {name} from {pool.path}; its key is invalid. {NOTICED}")


def _issue(pool: Pool, name: str, key: str, invitation: Invitation | None, change: Callable[[str], str]) -> None:
    """Hand out the key, then write its hash to pool.toml: a key that could not be shown is never valid."""
    if invitation is not None and not invitation.is_printed:
        invitation.write(name, key)
        try:
            pool.edit(change)
        except Failure as failure:
            invitation.path.unlink(missing_ok=True)
            raise Unchanged(failure.message) from None
        return
    _print(f"{key}\n" if invitation is None else invitation.text(name, key))
    try:
        pool.edit(change)
    except Failure as failure:
        raise Unchanged(f"{failure.message}. The printed key is not valid") from None


def _print(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):
            sys.stdout.close()  # Otherwise the interpreter tries to flush at exit, and prints an error.
        raise Unchanged(f"cannot write the key to standard output: {error.strerror or error}") from None


def _instructions(name: str, invitation: Invitation | None) -> str:
    if invitation is not None:
        doubt = f"\nCheck this first: {invitation.doubt}" if invitation.doubt else ""
        return (
            f"The invitation is {invitation.place}. It contains the key: send it in a way that you trust, and delete "
            f"it.\nTell {name} over another channel that the certificate's SHA-256 is {invitation.fingerprint}"
            f"{doubt}"
        )
    return (
        "The key is not shown again; only its hash is stored.\n"
        f"{name} sets CODEX_ACCESS_TOKEN to it (or pipes it into codex login --with-access-token), and the variables "
        f"`codexpool env` prints. If the key is lost: codexpool member rotate {name}"
    )


def _unmatched(config: PoolConfig, patterns: Sequence[str]) -> list[str]:
    names = [identity.name for identity in config.identities]
    return [
        f"{shown(pattern)} matches no identity"
        for pattern in patterns
        if not any(fnmatchcase(name, pattern) for name in names)
    ]


def _openness(config: PoolConfig) -> list[str]:
    """Warn of a pool that serves clients without a key."""
    if config.access is Access.MEMBERS:
        return []
    which = 'access = "anyone": the proxy' if config.access is Access.ANYONE else "on loopback only, a proxy"
    remedy = 'To require keys: access = "members" under [pool] in pool.toml'
    return [f"{which} serves clients without a key, too. {remedy}"]


def _document(config: PoolConfig, spec: MemberSpec, at: float) -> dict[str, Any]:
    previous = spec.previous if spec.previous is not None and spec.previous.until > at else None
    return {
        "name": spec.name,
        "fingerprint": spec.key.removeprefix("sha256:")[:FINGERPRINT_DIGITS],
        "status": key_status(spec, spec.key, at).value,
        "expires": moment(spec.expires_at),
        "revoked": moment(spec.revoked_at),
        "identities": list(spec.identities),
        "turns_at_once": spec.turns_at_once,
        "turns_a_day": spec.turns_a_day,
        "previous_until": moment(previous.until) if previous is not None else None,
        "where": f"{config.path}:{spec.line}",
    }
