"""`codexpool setup` and `codexpool config check`: what a proxy needs before it starts."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from codexpool.cli.common import Failure, config_option, json_option, moment, pool_path, sources
from codexpool.cli.output import print_json
from codexpool.config.model import ConfigError, Problem
from codexpool.config.read import load_or_empty
from codexpool.config.sources import resolve
from codexpool.local.ca_files import CERTIFICATE, SECRETS, AuthorityError, Prepared, confdir, prepare
from codexpool.redaction import redact_tokens


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


@click.group()
def config() -> None:
    """Validate pool.toml."""


@config.command("check")
@config_option
@json_option
@click.pass_context
def check(context: click.Context, named: Path | None, as_json: bool) -> None:
    """Validate pool.toml as a proxy would: print its path, and its problems by line.

    Does not verify tokens: for that, use `codexpool check`. Exit code 1 if there are problems.
    """
    path = pool_path(named)
    names: list[str] = []
    try:
        config = load_or_empty(path)
        names = [spec.name for spec in config.identities]
        problems: tuple[Problem, ...] = resolve(config, sources()).problems
    except ConfigError as error:
        problems = error.problems
    if as_json:
        document = {"path": str(path), "holds": not problems, "identities": names}
        print_json({**document, "problems": [_problem_document(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(redact_tokens(str(problem)), err=True)
        click.echo(f"{path}: {'invalid' if problems else 'valid'}, {len(names)} identities")
    context.exit(1 if problems else 0)


def _problem_document(problem: Problem) -> dict[str, object]:
    return {
        "file": str(problem.file),
        "line": problem.line,
        "key": problem.key or None,
        "what": redact_tokens(problem.what),
        "remedy": problem.remedy,
    }
