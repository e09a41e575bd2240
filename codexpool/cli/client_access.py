"""What a client needs to use a proxy: its URL, and its certificate authority."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from codexpool.cli.common import Failure
from codexpool.cli.running_proxy import Address, RunningProxy, confdir_of
from codexpool.common.addresses import is_loopback
from codexpool.local.ca_files import CERTIFICATE, AuthorityError, Certificate, certificate


def trusted(named: Path | None, proxy: RunningProxy) -> Certificate:
    """Return the certificate to trust: the one named, or that of a proxy on this machine. Raises Failure."""
    if named is None and not is_loopback(proxy.at.host):
        raise Failure(
            f"{proxy} is on another machine, and so is its CA certificate. Get {CERTIFICATE} from the operator, "
            "compare its fingerprint with the one `codexpool setup` prints there, and use --ca PATH"
        )
    path = named if named is not None else confdir_of(proxy) / CERTIFICATE
    presented = proxy.authority() if named is None else None
    if presented is not None and not presented.is_trusted_by(path.expanduser()):
        raise Failure(
            f"{proxy} has another certificate authority than {path}: it runs as another user, in a "
            "container, or with another folder. codexpool setup shows which, and how to get its certificate"
        )
    try:
        return certificate(path.expanduser())
    except AuthorityError as error:
        if named is not None:
            raise Failure(f"--ca: {error}") from None
        raise Failure(
            f"{error}. Create one with: codexpool setup; or start the proxy once: codexpool run. If the proxy uses "
            f"another confdir, use --ca PATH/{CERTIFICATE}"
        ) from None


def url_of(at: Address) -> str:
    # The colon stays without a password: git asks for one otherwise, and Python's websockets refuses the URL.
    user = f"{quote(at.user, safe='')}:{quote(at.password, safe='')}@" if at.user or at.password else ""
    return f"http://{user}{replace(at, user='', password='')}"
