"""`codexpool setup`: the certificate authority that clients trust."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Final

import click

from codexpool.cli.common import Failure, json_option, moment, remark
from codexpool.cli.next_steps import say_next
from codexpool.cli.output import print_json
from codexpool.cli.running_proxy import RunningProxy, announcement_of, confdir_of, find_proxy
from codexpool.cli.shells import eval_line
from codexpool.local.ca_files import CERTIFICATE, SECRETS, Authority, AuthorityError, Certificate, Prepared, prepare


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

    Makes the folder of the CA private. mitmproxy uses the CA it finds there. If a proxy runs on this machine, shows
    the CA of that one, because clients that trust another would refuse it.
    """
    proxy = find_proxy(None)
    presented = proxy.authority()
    folder = named.expanduser().absolute() if named is not None else confdir_of(proxy)
    is_own = presented is None or presented.is_trusted_by(folder / CERTIFICATE)
    is_elsewhere = announcement_of(proxy) is None or not folder.exists()
    if presented is not None and named is None and not is_own and is_elsewhere:
        _show_elsewhere(proxy, presented, as_json)
        return
    try:
        prepared = prepare(folder)
    except AuthorityError as error:
        raise Failure(str(error)) from None
    for sentence in [*prepared.fixed, *([] if is_own else [OTHER.format(proxy=proxy)])]:
        remark(sentence)
    if as_json:
        print_json(_document(prepared))
    else:
        click.echo(_explanation(prepared))
        _next(prepared, is_default=named is None, runs=presented is not None)


def _show_elsewhere(proxy: RunningProxy, presented: Authority, as_json: bool) -> None:
    """Show the authority of a proxy whose files are not this user's, or not on this machine."""
    if as_json:
        nothing = {"confdir": None, "certificate": None}
        print_json({**nothing, **_facts(presented), "is_new": False, "mended": [], "proxy": str(proxy)})
    else:
        expires = f"{presented.expires:%Y-%m-%d}"
        click.echo(ELSEWHERE.format(proxy=proxy, sha256=presented.fingerprint, expires=expires))
        say_next(eval_line(os.environ, "codex", f"--ca {CERTIFICATE}"))


OTHER: Final = (
    "the proxy that runs at {proxy} has another certificate authority: it uses another folder, or has to be restarted"
)

ELSEWHERE: Final = f"""\
The proxy at {{proxy}} has the certificate authority of another user, container or machine.

  SHA-256      {{sha256}}
  valid until  {{expires}}

So none was created here. Get the certificate from a service of the system, a container, or the proxy itself:
  sudo cat /var/lib/codexpool/mitmproxy/{CERTIFICATE} > {CERTIFICATE}
  docker cp codexpool:/var/lib/codexpool/mitmproxy/{CERTIFICATE} .
  curl -x http://{{proxy}} http://codex.pool/ca.pem > {CERTIFICATE}
Then compare its fingerprint with the one that the operator tells you:
  openssl x509 -noout -fingerprint -sha256 -in {CERTIFICATE}"""


def _facts(one: Certificate | Authority) -> dict[str, object]:
    return {"sha256": one.fingerprint, "holds_until": moment(one.expires.timestamp())}


def _document(prepared: Prepared) -> dict[str, object]:
    certificate = prepared.certificate
    return {
        "confdir": str(prepared.folder),
        "certificate": str(certificate.path),
        **_facts(certificate),
        "is_new": prepared.is_new,
        "mended": list(prepared.fixed),
        "proxy": None,
    }


def _explanation(prepared: Prepared) -> str:
    certificate = prepared.certificate
    return f"""\
{"Created the proxy's certificate authority." if prepared.is_new else "The proxy has a certificate authority."}

  certificate  {certificate.path}
  SHA-256      {certificate.fingerprint}
  valid until  {certificate.expires:%Y-%m-%d}

Give {CERTIFICATE} to members. Give them the fingerprint over another channel, to compare with:
  openssl x509 -noout -fingerprint -sha256 -in {CERTIFICATE}
Never give away {" or ".join(SECRETS)}: they contain the private key.
Trust the CA in the client only (codexpool env does), since the proxy can read what its clients send."""


def _next(prepared: Prepared, is_default: bool, runs: bool) -> None:
    run = "" if is_default else f" --set {shlex.quote(f'confdir={prepared.folder}')}"
    ca = "" if is_default else f"--ca {shlex.quote(str(prepared.certificate.path))}"
    say_next(*([] if runs else [f"codexpool run{run}"]), eval_line(os.environ, "codex", ca))
