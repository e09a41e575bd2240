"""`codexpool remove`."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import click

from codexpool.cli.common import Failure, Pool, open_the_state, pool_option, remark, require_writable
from codexpool.cli.completions import identity_argument
from codexpool.cli.logins_folder import logins_folder
from codexpool.cli.shared_logins import delete
from codexpool.common.private_files import UnusableError
from codexpool.config.model import FromAuthJson, FromFile, FromKeyring, FromState, IdentitySpec
from codexpool.config.sources import write_keyring
from codexpool.config.tables import without_table
from codexpool.state import record_name


@click.command()
@identity_argument
@click.option("--with-login", is_flag=True, help="Also delete its login in the state, for all proxies.")
@click.option(
    "--purge",
    is_flag=True,
    help="Also delete the folder of its login that `codexpool login` made, or its entry in the keyring.",
)
@pool_option
def remove(name: str, pool: Pool, with_login: bool, purge: bool) -> None:
    """Remove identity NAME from pool.toml. Its token or login file, or its login in the state, is kept."""
    spec = pool.identity(name)
    if with_login and not isinstance(spec.source, FromState):
        raise click.UsageError(f"--with-login: {name} has no login in the state")
    folder = _folder_of(spec) if purge else None
    if purge and folder is None and not isinstance(spec.source, FromKeyring):
        raise click.UsageError(f"--purge: {name} has no folder made by codexpool login, and no entry in the keyring")
    if with_login:  # First: if it cannot be deleted now, the same command does it later.
        require_writable(pool.path)
        delete(spec.owner)
    pool.edit(lambda text: without_table(text, name))
    with contextlib.suppress(Failure), open_the_state() as state:  # Another identity may get this name.
        state.drop_record(record_name(pool.scope, name))
    click.echo(f"removed {name} from {pool.path}")
    if with_login:
        click.echo("deleted its login in the state")
    elif isinstance(spec.source, FromState):
        click.echo("kept its login in the state, for other proxies")
    elif purge:
        click.echo(f"deleted {_purge(spec, folder)}")
    elif isinstance(spec.source, FromAuthJson | FromFile):
        click.echo(f"kept {spec.source.path}")
        if _folder_of(spec) is not None:
            remark("next time, --purge deletes that, too")


def _folder_of(spec: IdentitySpec) -> Path | None:
    """Return the folder that `codexpool login` made for an identity; None if its login is elsewhere."""
    if not isinstance(spec.source, FromAuthJson):
        return None
    folder = spec.source.path.parent
    is_ours = folder.parent == logins_folder() and folder.name != ".." and not folder.is_symlink()
    return folder if is_ours else None


def _purge(spec: IdentitySpec, folder: Path | None) -> str:
    """Delete the credential of an identity that has left pool.toml; return what it was. Raises Failure."""
    try:
        if folder is not None:
            shutil.rmtree(folder)
            return str(folder)
        assert isinstance(spec.source, FromKeyring)
        write_keyring(spec.source.service, spec.name, None)
    except (OSError, UnusableError) as error:
        reason = error.what if isinstance(error, UnusableError) else error.strerror or error
        raise Failure(f"its credential could not be deleted: {reason}. Delete it by hand") from None
    return f"its entry in the keyring (service {spec.source.service})"
