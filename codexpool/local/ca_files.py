"""The certificate authority of a proxy, as files: where they are, whose, who can read them, and which one it is.

It is mitmproxy's own: this makes it as mitmproxy would at its first start, and mitmproxy takes what it finds. What
mitmproxy does not see to is done here: that nobody else can read the folder, and that the files belong together.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import stat
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization

from codexpool.common.atomic_replace import locked

CERTIFICATE: Final = "mitmproxy-ca-cert.pem"
"""What clients trust. It may be handed to anybody."""

KEY: Final = "mitmproxy-ca.pem"
"""The private key, and its certificate. Whoever has it reads what those say who trust the authority."""

SECRETS: Final = (KEY, "mitmproxy-ca.p12")
"""The files with the private key in them."""

SETTLING: Final = 1.0
"""Seconds in which a mitmproxy that is starting has written its authority: also in the place of one that was made
meanwhile, if it has seen none before."""

PATIENCE: Final = 10.0
"""Seconds to wait for another `codexpool setup`."""

OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


class AuthorityError(Exception):
    """An authority that cannot be used, or not be made: what is wrong, and what mends it."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What clients are told to trust. ``fingerprint`` is that of `openssl x509 -fingerprint -sha256`."""

    path: Path
    fingerprint: str
    holds_until: datetime


@dataclass(frozen=True, slots=True)
class Prepared:
    """An authority that can be used, and what was done for that. ``mended`` are sentences."""

    folder: Path
    certificate: Certificate
    is_new: bool
    mended: tuple[str, ...]


def confdir() -> Path:
    """Where mitmproxy has its authority if no option says so: ``~/.mitmproxy``, or what its config.yaml says."""
    from mitmproxy import exceptions, optmanager  # only where nobody has said which folder

    folder = Path("~/.mitmproxy").expanduser()
    for name in ("config.yaml", "config.yml"):
        with contextlib.suppress(OSError, ValueError, exceptions.OptionsError):
            said = optmanager.parse((folder / name).read_text(encoding="utf-8")).get("confdir")
            if isinstance(said, str) and said:
                return Path(said).expanduser().absolute()
    return folder


def certificate(path: Path) -> Certificate:
    """The certificate in a file that clients are to trust. Raises AuthorityError for a file that is not for them."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise AuthorityError(f"{path}: there is no such file") from None
    except OSError as error:
        raise AuthorityError(f"{path} cannot be read: {error.strerror}") from None
    if b"PRIVATE KEY" in text:
        raise AuthorityError(
            f"{path} has the authority's private key in it, which is for nobody but the proxy: clients need "
            f"{CERTIFICATE}, which is beside it"
        )
    first = _certificates(path, text)[0]
    digest = first.fingerprint(hashes.SHA256()).hex(":").upper()
    return Certificate(path.absolute(), digest, first.not_valid_after_utc)


def prepare(folder: Path) -> Prepared:
    """See to it that a folder has an authority, which nobody else can read. May take seconds.

    Whatever was there stays, but modes. Raises AuthorityError where it is not ours, or cannot be used or made.
    """
    mended: list[str] = []
    try:
        real = _own_folder(folder, mended)
        is_new = not (real / KEY).exists() and _made(real)
        for name in SECRETS:
            _close_to_others(real / name, mended)
        if is_new or not _is_whole(real / KEY):
            time.sleep(SETTLING)
        _publish(real, is_new, mended)
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise AuthorityError(
            f"{getattr(error, 'filename', None) or folder}: {reason}. The proxy needs a folder that it may write to: "
            "codexpool setup --confdir PATH, and then codexpool run --set confdir=PATH"
        ) from None
    return Prepared(folder, certificate(folder / CERTIFICATE), is_new, tuple(mended))


def _own_folder(folder: Path, mended: list[str]) -> Path:
    """The folder itself, made if need be, with nobody but its owner let in. Raises OSError, AuthorityError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    real = folder.resolve(strict=True)
    status = real.stat()
    _refuse_foreign(real, status)
    if os.name == "posix" and status.st_mode & OTHERS:
        real.chmod(0o700)
        mended.append(f"{real} was open to other users (mode {stat.S_IMODE(status.st_mode):04o}); it is 0700 now")
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            mended.append("others could put files there: if you share this machine, remove them all, and begin anew")
    return real


def _close_to_others(path: Path, mended: list[str]) -> None:
    """Let nobody but its owner read a file, if it is there. Raises OSError, AuthorityError."""
    if os.name != "posix":
        return
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise AuthorityError(f"{path} is no regular file: put it away, and run codexpool setup again")
        _refuse_foreign(path, status)
        if status.st_mode & OTHERS:
            os.fchmod(descriptor, 0o600)
            mended.append(
                f"{path} was open to other users (mode {stat.S_IMODE(status.st_mode):04o}); it is 0600 now. If "
                "anybody can have read it, remove all files of this authority, and begin with a new one"
            )
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path, status: os.stat_result) -> None:
    if os.name == "posix" and status.st_uid != os.geteuid():
        raise AuthorityError(
            f"{path} belongs to another user (uid {status.st_uid}), and who owns it can read all that clients say: "
            f"run this as the user that the proxy runs as, or use a folder of your own: --confdir PATH"
        )


def _made(real: Path) -> bool:
    """Make an authority as mitmproxy does, but so that it is there as a whole or not at all; whether it is ours.

    What a killed process has left is in a folder of its own, and goes. Raises OSError, NotImplementedError.
    """
    from mitmproxy.certs import CertStore
    from mitmproxy.options import CONF_BASENAME, KEY_SIZE

    new = real / ".codexpool-setup.new"
    with locked(real / KEY, PATIENCE):
        if (real / KEY).exists():
            return False
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        try:
            CertStore.create_store(new, CONF_BASENAME, KEY_SIZE)
            if not _linked(new / KEY, real / KEY):
                return False
            for path in new.iterdir():
                path.replace(real / path.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return True


def _linked(new: Path, path: Path) -> bool:
    """Give a file a second name, if nothing has that yet. (A renaming would replace what a mitmproxy has made.)"""
    try:
        path.hardlink_to(new)
    except FileExistsError:
        return False
    except OSError:  # A file system without links.
        if path.exists():
            return False
        new.rename(path)
    return True


def _is_whole(key: Path) -> bool:
    try:
        return bool(_certificates(key, key.read_bytes()))
    except AuthorityError:
        return False


def _publish(real: Path, is_new: bool, mended: list[str]) -> None:
    """See to it that the certificate that is handed out is that of the key. Raises OSError, AuthorityError.

    mitmproxy looks at the key only: one that was killed, or was starting as we made ours, leaves it at that.
    """
    ours = _certificates(real / KEY, (real / KEY).read_bytes())
    path = real / CERTIFICATE
    if path.exists():
        handed_out = _certificates(path, path.read_bytes())
        if any(_vouches(one, ours) for one in handed_out):
            return
        if not is_new:
            raise AuthorityError(
                f"{path} is not of the authority whose key is in {KEY}, and clients that trust it would refuse the "
                f"proxy. Remove it, and run codexpool setup again: rm {shlex.quote(str(path))}"
            )
    else:
        mended.append(f"{path} was missing; it is there now")
    text = b"".join(one.public_bytes(serialization.Encoding.PEM) for one in ours)
    for name in (CERTIFICATE, "mitmproxy-ca-cert.cer"):
        new = real / f".{name}.new"
        new.write_bytes(text)
        new.replace(real / name)


def _vouches(trusted: x509.Certificate, chain: list[x509.Certificate]) -> bool:
    """Whether who trusts a certificate trusts an authority with that chain. (Its name says nothing: all have one.)"""
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
            f"{path} holds no certificate: a start of mitmproxy may have been cut off. Remove the files "
            f"mitmproxy-ca* beside it, and run codexpool setup again"
        ) from None
