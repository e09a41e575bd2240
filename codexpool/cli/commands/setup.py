"""`codexpool setup`: the certificate authority of the proxy, made and explained."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import click

from codexpool.cli.common import Failure, json_option, moment
from codexpool.local.ca_files import CERTIFICATE, SECRETS, AuthorityError, Prepared, confdir, prepare


@click.command()
@click.option(
    "--confdir",
    "named",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="The folder of the authority, mitmproxy's option of that name; else ~/.mitmproxy, or what config.yaml says.",
)
@json_option
def setup(named: Path | None, as_json: bool) -> None:
    """Make the proxy's certificate authority, if it has none, and say what is to be known about it.

    Nobody else can read its folder afterwards. mitmproxy takes what it finds there.
    """
    try:
        prepared = prepare(named.expanduser().absolute() if named is not None else confdir())
    except AuthorityError as error:
        raise Failure(str(error)) from None
    if as_json:
        click.echo(json.dumps(_document(prepared), indent=2))
        return
    for sentence in prepared.mended:
        click.echo(f"codexpool: {sentence}", err=True)
    click.echo(_explained(prepared, is_default=named is None))


def _document(prepared: Prepared) -> dict[str, object]:
    certificate = prepared.certificate
    return {
        "confdir": str(prepared.folder),
        "certificate": str(certificate.path),
        "sha256": certificate.fingerprint,
        "holds_until": moment(certificate.holds_until.timestamp()),
        "is_new": prepared.is_new,
        "mended": list(prepared.mended),
    }


def _explained(prepared: Prepared, is_default: bool) -> str:
    certificate = prepared.certificate
    run = "codexpool run"
    ca = ""
    if not is_default:
        run += f" --set {shlex.quote(f'confdir={prepared.folder}')}"
        ca = f" --ca {shlex.quote(str(certificate.path))}"
    return f"""\
The certificate authority of the proxy {"is made" if prepared.is_new else "is there"}.

  certificate  {certificate.path}
  SHA-256      {certificate.fingerprint}
  holds until  {certificate.holds_until:%Y-%m-%d}

Hand {CERTIFICATE} to members, and the fingerprint by another way. They compare it:
  openssl x509 -noout -fingerprint -sha256 -in {CERTIFICATE}
Hand {" and ".join(SECRETS)} to nobody: they hold the private key.

Whoever trusts an authority lets its proxy read all that is said. So trust it in the client only
(CODEX_CA_CERTIFICATE, as codexpool env sets it), and not in the system or in a browser.

Next:
  {run}
  eval "$(codexpool env{ca})" && codex"""
