"""An invitation: one file with all that a member's client needs, which a shell can read.

It contains the member's key. So it is private, complete or not there at all, and never replaces another file.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from codexpool.cli.client_access import trusted, url_of
from codexpool.cli.common import Failure, Unchanged
from codexpool.cli.running_proxy import STATUS, Address, RunningProxy, address, find_proxy
from codexpool.common.addresses import is_loopback
from codexpool.common.atomic_replace import create_whole
from codexpool.doctor.environment import WORKLOAD
from codexpool.local.ca_files import CERTIFICATE, AuthorityError, pem
from codexpool.local.running_proxies import LOCAL

F = TypeVar("F", bound=Callable[..., Any])
CONFLICTS: Final = ("CODEX_API_KEY", *WORKLOAD)  # variables that a client prefers to a member key
STDOUT: Final = Path("-")
EXISTS: Final = "--invite: {} exists; name another file, or delete it"
EXAMPLE: Final = "http://team:8080"


def invitation_options(command: F) -> F:
    """Add ``--invite FILE``, and the address and certificate to put there."""
    for option in (
        click.option(
            "--ca",
            metavar="PATH",
            type=click.Path(path_type=Path),
            help=f"The CA certificate for the invitation. Default: {CERTIFICATE} of the proxy on this machine.",
        ),
        click.option(
            "--proxy",
            "proxy_url",
            metavar="URL",
            help=f"The proxy as the member reaches it, such as {EXAMPLE}. Default: the one on this machine.",
        ),
        click.option(
            "--invite",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Write the key to this new file, with the proxy's address and certificate, and the lines for the "
            "member's shell; - is standard output.",
        ),
    ):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Invitation:
    """What is known of an invitation before there is a key. ``doubt`` is what the operator should check."""

    path: Path
    proxy: str
    fingerprint: str
    pem: str
    doubt: str

    @property
    def is_printed(self) -> bool:
        return self.path == STDOUT

    @property
    def place(self) -> str:
        return "on standard output" if self.is_printed else str(self.path)

    def write(self, name: str, key: str) -> None:
        """Write the file for a member. Raises Unchanged."""
        try:
            create_whole(self.path, self.text(name, key).encode())
        except FileExistsError:
            raise Unchanged(EXISTS.format(self.path)) from None
        except OSError as error:
            raise Unchanged(f"--invite: cannot write {self.path}: {error.strerror or error}") from None

    def text(self, name: str, key: str) -> str:
        return TEXT.format(
            name=name,
            file=shlex.quote(f"{name}.sh" if self.is_printed else self.path.name),
            fingerprint=self.fingerprint,
            short=self.fingerprint.replace(":", "")[:12].lower(),
            pem=self.pem.strip(),
            proxy=shlex.quote(self.proxy),
            key=key,
            names=" ".join(CONFLICTS),
        )


def prepared(path: Path | None, proxy_url: str | None, ca: Path | None) -> Invitation | None:
    """Find out what to write into an invitation; None if none is wanted. Raises click.UsageError, Failure."""
    if path is None:
        if proxy_url or ca:
            raise click.UsageError("--proxy and --ca are for an invitation: use --invite FILE, too")
        return None
    if not path.name.isprintable():  # It is also in the file, which a shell reads.
        raise click.UsageError("--invite: the name of the file is not printable")
    if path != STDOUT and path.exists():
        raise click.UsageError(EXISTS.format(path))
    here = find_proxy(None)
    try:
        certificate = trusted(ca, here)
        text = pem(certificate)
        at, doubt = (address(proxy_url), "") if proxy_url else _reachable(here)
    except (AuthorityError, Failure) as error:
        raise Unchanged(str(error).rstrip(".")) from None
    return Invitation(path, url_of(at), certificate.fingerprint, text, doubt)


def _reachable(proxy: RunningProxy) -> tuple[Address, str]:
    """Return the address at which others reach a proxy on this machine, and why that may be wrong. Raises Failure."""
    listens = [address(text) for text in proxy.get(STATUS)["proxy"]["listens"]]
    on_all = next((at for at in listens if at.host in LOCAL), None)
    if on_all is not None:
        at = Address(socket.gethostname(), on_all.port)
        return (
            at,
            f"the address {url_of(at)} is made of this machine's name: if others call it otherwise, use --proxy",
        )
    for at in listens:
        if not is_loopback(at.host):
            return at, ""
    doubt = "only this machine reaches the proxy (codexpool run --listen-host 0.0.0.0 changes that)"
    return proxy.at, doubt


TEXT: Final = """\
# An invitation for {name} to a pool of Codex identities.
#
# This file contains the key of {name}: anyone who has it uses the pool as {name}. Do not share it.
#
# The proxy can read what your client sends. So compare its certificate with the SHA-256 that the operator tells you
# over another channel:
#
#   {fingerprint}
#
# Then, in bash or zsh (for other shells and for editors, set the same three variables):
#
#   . ./{file} && codex
#
# What you may use, and have used:
#
#   printf 'Authorization: Bearer %s' "$CODEX_ACCESS_TOKEN" |
#     curl -x "$HTTPS_PROXY" --cacert "$CODEX_CA_CERTIFICATE" -H @- https://codex.pool/me

export HTTPS_PROXY={proxy}
export CODEX_CA_CERTIFICATE="${{XDG_CONFIG_HOME:-$HOME/.config}}/codexpool/ca-{short}.pem"
export CODEX_ACCESS_TOKEN={key}

mkdir -p "${{CODEX_CA_CERTIFICATE%/*}}" && cat >| "$CODEX_CA_CERTIFICATE" <<'END'
{pem}
END

case ",$(printf %s "${{NO_PROXY:-}},${{no_proxy:-}}" | tr 'A-Z' 'a-z' | tr -d ' ')," in
  *chatgpt.com* | *openai.com* | *,com,* | *,.com,* | *,\\*,*)
    unset NO_PROXY no_proxy
    echo "NO_PROXY would lead the client past the proxy, with your key: it is unset in this shell" >&2 ;;
esac
for codexpool_name in {names}; do
  if eval "[ -n \\"\\${{$codexpool_name+set}}\\" ]"; then
    echo "the client would use $codexpool_name and not your key: unset $codexpool_name" >&2
  fi
done
unset codexpool_name
"""
