"""`codexpool setup`: the certificate authority that clients trust."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from codexpool.cli.common import Failure, json_option, moment
from codexpool.cli.output import print_json
from codexpool.local.ca_files import CERTIFICATE, SECRETS, AuthorityError, Prepared, confdir, prepare


@click.command()
@click.option(
    "--confdir",
    "named",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="mitmproxy's folder for the CA. Default: the one in mitmproxy's config.yaml, or ~/.mitmproxy.",
)
@json_option
def setup(named: Path | None, as_json: bool) -> None:
    """Create the proxy's certificate authority (CA) if it has none, and explain how to use it.

    Makes the folder of the CA private. mitmproxy uses the CA it finds there.
    """
    try:
        prepared = prepare(named.expanduser().absolute() if named is not None else confdir())
    except AuthorityError as error:
        raise Failure(str(error)) from None
    if as_json:
        print_json(_document(prepared))
        return
    for sentence in prepared.fixed:
        click.echo(f"codexpool: {sentence}", err=True)
    click.echo(_explanation(prepared, is_default=named is None))


def _document(prepared: Prepared) -> dict[str, object]:
    certificate = prepared.certificate
    return {
        "confdir": str(prepared.folder),
        "certificate": str(certificate.path),
        "sha256": certificate.fingerprint,
        "holds_until": moment(certificate.expires.timestamp()),
        "is_new": prepared.is_new,
        "mended": list(prepared.fixed),
    }


def _explanation(prepared: Prepared, is_default: bool) -> str:
    certificate = prepared.certificate
    run = "" if is_default else f" --set {shlex.quote(f'confdir={prepared.folder}')}"
    ca = "" if is_default else f" --ca {shlex.quote(str(certificate.path))}"
    return f"""\
{"Created the proxy's certificate authority." if prepared.is_new else "The proxy has a certificate authority."}

  certificate  {certificate.path}
  SHA-256      {certificate.fingerprint}
  valid until  {certificate.expires:%Y-%m-%d}

Give {CERTIFICATE} to members. Give them the fingerprint over another channel, to compare with:
  openssl x509 -noout -fingerprint -sha256 -in {CERTIFICATE}
Never give away {" or ".join(SECRETS)}: they contain the private key.
Trust the CA in the client only (codexpool env does), since the proxy can read what its clients send.

Next:
  codexpool run{run}
  eval "$(codexpool env{ca})" && codex"""
