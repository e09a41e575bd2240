"""The files of the proxy's certificate authority (CA).

The CA is mitmproxy's own: `prepare` makes it as mitmproxy would at its first start, and mitmproxy uses what it finds.
`prepare` also does what mitmproxy does not: it closes the folder to other users, and checks that the
certificate belongs to the key.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from codexpool.common.atomic_replace import linked, locked
from codexpool.common.private_files import private_folder

CERTIFICATE: Final = "mitmproxy-ca-cert.pem"  # public: the certificate that clients trust
KEY: Final = "mitmproxy-ca.pem"  # the private key; with it, the traffic of clients that trust the CA can be read
SECRETS: Final = (KEY, "mitmproxy-ca.p12")  # the files with the private key
SETTLING: Final = 1.0  # seconds in which a starting mitmproxy writes its CA, perhaps over one made meanwhile
PATIENCE: Final = 10.0  # seconds to wait for another `codexpool setup`
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class AuthorityError(Exception):
    """A CA that cannot be used or made; the text says why, and how to fix it."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate clients trust. ``fingerprint`` is that of `openssl x509 -fingerprint -sha256`."""

    path: Path
    fingerprint: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class Authority:
    """The certificates that a proxy says its authority has; the first one signs."""

    chain: Sequence[x509.Certificate]

    @classmethod
    def parse(cls, text: bytes) -> Authority:
        """Parse PEM. Raises AuthorityError."""
        return cls(_certificates(Path("the answer"), text))

    @property
    def fingerprint(self) -> str:
        return _fingerprint(self.chain[0])

    @property
    def expires(self) -> datetime:
        return self.chain[0].not_valid_after_utc

    def is_trusted_by(self, path: Path) -> bool:
        """Return whether clients that trust the certificates in a file trust this authority."""
        try:
            return any(_vouches(one, self.chain) for one in _certificates(path, path.read_bytes()))
        except (OSError, AuthorityError):
            return False


@dataclass(frozen=True, slots=True)
class Prepared:
    """A usable CA. ``fixed`` are sentences about what had to be changed."""

    folder: Path
    certificate: Certificate
    is_new: bool
    fixed: tuple[str, ...]


def confdir() -> Path:
    """Return the folder mitmproxy uses without an option: ``~/.mitmproxy``, or the one its config.yaml names."""
    from mitmproxy import exceptions, optmanager  # Slow, and seldom needed.

    folder = Path("~/.mitmproxy").expanduser()
    for name in ("config.yaml", "config.yml"):
        with contextlib.suppress(OSError, ValueError, exceptions.OptionsError):
            configured = optmanager.parse((folder / name).read_text(encoding="utf-8")).get("confdir")
            if isinstance(configured, str) and configured:
                return Path(configured).expanduser().absolute()
    return folder


def certificate(path: Path) -> Certificate:
    """Read the certificate that clients trust. Raises AuthorityError if the file is not one for clients."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise AuthorityError(f"{path}: there is no such file") from None
    except OSError as error:
        raise AuthorityError(f"{path} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in text:
        raise AuthorityError(f"{path} contains the private key of the CA. Clients need {CERTIFICATE}, beside it")
    first = _certificates(path, text)[0]
    return Certificate(path.absolute(), _fingerprint(first), first.not_valid_after_utc)


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def pem(of: Certificate) -> str:
    """Return a certificate that was read as text to give away. Raises AuthorityError if it has changed since."""
    again = certificate(of.path)
    if again.fingerprint != of.fingerprint:
        raise AuthorityError(f"{of.path} has just been replaced: try again")
    found = _certificates(of.path, of.path.read_bytes())
    return "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in found)


def prepare(folder: Path) -> Prepared:
    """Make sure that a folder has a CA, closed to other users. May take seconds.

    Existing files stay, except for their modes. Raises AuthorityError if the CA is not ours, or cannot be used or
    made.
    """
    fixed: list[str] = []
    try:
        real = _own_folder(folder, fixed)
        is_new = not (real / KEY).exists() and _made(real)
        for name in SECRETS:
            _close_to_others(real / name, fixed)
        if is_new or not _is_whole(real / KEY):
            time.sleep(SETTLING)
        _publish(real, is_new, fixed)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AuthorityError(
            f"{getattr(error, 'filename', None) or folder}: {reason}. The proxy needs a folder it can write to: "
            "codexpool setup --confdir PATH, then codexpool run --set confdir=PATH"
        ) from None
    return Prepared(folder, certificate(folder / CERTIFICATE), is_new, tuple(fixed))


def _own_folder(folder: Path, fixed: list[str]) -> Path:
    """Return the real folder, made if need be and closed to other users. Raises OSError, AuthorityError."""
    private_folder(folder)
    real = folder.resolve(strict=True)
    status = real.stat()
    _refuse_foreign(real, status)
    if os.name == "posix" and status.st_mode & OTHERS:
        real.chmod(0o700)
        fixed.append(f"{real} was open to other users (mode {stat.S_IMODE(status.st_mode):04o}); it is now 0700")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            fixed.append("others could put files there: if you share this machine, delete all of them and start over")
    return real


def _close_to_others(path: Path, fixed: list[str]) -> None:
    if os.name != "posix":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AuthorityError(f"{path} is not a regular file: move it away, and run codexpool setup again")
        _refuse_foreign(path, status)
        if status.st_mode & OTHERS:
            os.fchmod(descriptor, 0o600)
            fixed.append(
                f"{path} was open to other users (mode {stat.S_IMODE(status.st_mode):04o}); it is now 0600. If "
                "someone may have read it, delete all files of this CA and make a new one"
            )
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise AuthorityError(
            f"{path} belongs to another user (uid {status.st_uid}), who could read all traffic of your clients: run "
            "this as the user the proxy runs as, or use a folder of your own: --confdir PATH"
        )


def _made(real: Path) -> bool:
    """Make a CA as mitmproxy does, as a whole or not at all. Return False if there is one by now.

    Raises OSError, NotImplementedError.
    """
    from mitmproxy.certs import CertStore
    from mitmproxy.options import CONF_BASENAME, KEY_SIZE

    new = real / ".codexpool-setup.new"
    with locked(real / KEY, PATIENCE):
        if (real / KEY).exists():
            return False
        shutil.rmtree(new, ignore_errors=True)  # A killed process may have left it.
        new.mkdir(mode=0o700)
        try:
            CertStore.create_store(new, CONF_BASENAME, KEY_SIZE)
            if not linked(new / KEY, real / KEY):  # A starting mitmproxy may have made one.
                return False
            for path in new.iterdir():
                path.replace(real / path.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return True


def _is_whole(key: Path) -> bool:
    try:
        return bool(_certificates(key, key.read_bytes()))
    except AuthorityError:
        return False


def _publish(real: Path, is_new: bool, fixed: list[str]) -> None:
    """Make sure that the public certificate is that of the key. Raises OSError, AuthorityError.

    mitmproxy checks only the key. If it was killed, or started while ours was made, the certificate may not fit.
    """
    ours = _certificates(real / KEY, (real / KEY).read_bytes())
    path = real / CERTIFICATE
    if path.exists():
        if any(_vouches(one, ours) for one in _certificates(path, path.read_bytes())):
            return
        if not is_new:
            raise AuthorityError(
                f"{path} does not belong to the key in {KEY}: clients that trust it would refuse the proxy. Delete "
                f"it, and run codexpool setup again: rm {shlex.quote(str(path))}"
            )
    else:
        fixed.append(f"{path} was missing; it is written again")
    text = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in ours)
    for name in (CERTIFICATE, "mitmproxy-ca-cert.cer"):
        new = real / f".{name}.new"
        new.write_bytes(text)
        new.replace(real / name)


def _vouches(trusted: x509.Certificate, chain: Sequence[x509.Certificate]) -> bool:
    """Return whether trust in a certificate extends to a CA with that chain. (All have the same name.)"""
    for one in chain:
        with contextlib.suppress(ValueError, TypeError, InvalidSignature):
            one.verify_directly_issued_by(trusted)
            return True
    return trusted in chain


def _certificates(path: Path, text: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(text)
    except ValueError:
        raise AuthorityError(
            f"{path} contains no certificate; a start of mitmproxy may have been interrupted. Delete the files "
            "mitmproxy-ca* beside it, and run codexpool setup again"
        ) from None
