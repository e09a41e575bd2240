"""The proxy's certificate authority, as files."""

from __future__ import annotations

import multiprocessing
import os
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from mitmproxy.certs import CertStore

from codexpool.local import ca_files
from codexpool.local.ca_files import CERTIFICATE, KEY, SECRETS, AuthorityError, certificate, confdir, prepare
from tests.running import ROOT

posix = pytest.mark.skipif(os.name != "posix", reason="there are no such modes")


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mitmproxy starts beside these."""
    monkeypatch.setattr(ca_files, "SETTLING", 0)


@pytest.fixture(scope="module")
def made_by_mitmproxy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that mitmproxy makes at its first start."""
    folder = tmp_path_factory.mktemp("mitmproxy")
    CertStore.from_store(folder, "mitmproxy", 2048)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path, made_by_mitmproxy: dict[str, bytes]) -> Path:
    """A confdir as mitmproxy leaves it: readable by all, but for the key."""
    folder = tmp_path / "confdir"
    folder.mkdir(mode=0o755)
    for name, content in made_by_mitmproxy.items():
        (folder / name).write_bytes(content)
        (folder / name).chmod(0o600 if name in SECRETS else 0o644)
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- made


def test_mitmproxy_accepts_the_ca_as_its_own(tmp_path: Path) -> None:
    prepared = prepare(tmp_path / "new" / "confdir")

    taken = CertStore.from_store(tmp_path / "new" / "confdir", "mitmproxy", 2048)

    assert prepared.is_new
    assert taken.default_ca.fingerprint().hex(":").upper() == prepared.certificate.fingerprint
    assert prepared.certificate.expires > datetime.now(UTC)


@posix
def test_the_new_files_are_private(tmp_path: Path) -> None:
    was = os.umask(0)
    try:
        prepare(tmp_path / "confdir")
    finally:
        os.umask(was)

    assert mode(tmp_path / "confdir") == 0o700
    assert {mode(tmp_path / "confdir" / name) for name in SECRETS} == {0o600}


def test_the_fingerprint_equals_openssls(folder: Path) -> None:
    said = subprocess.run(
        ["openssl", "x509", "-noout", "-fingerprint", "-sha256", "-in", str(folder / CERTIFICATE)],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout.strip().endswith(f"={certificate(folder / CERTIFICATE).fingerprint}")


def test_an_authority_that_is_there_stays(folder: Path, made_by_mitmproxy: dict[str, bytes]) -> None:
    prepared = prepare(folder)

    assert not prepared.is_new
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == made_by_mitmproxy


def test_what_a_killed_setup_has_left_is_put_away(tmp_path: Path) -> None:
    left = tmp_path / "confdir" / ".codexpool-setup.new"
    left.mkdir(parents=True)
    (left / KEY).write_text("half a k")

    prepared = prepare(tmp_path / "confdir")

    assert prepared.is_new
    assert not left.exists()


def test_a_ca_made_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mitmproxy has made its own between the moment at which we saw none and the one at which ours is there."""
    confdir = tmp_path / "confdir"
    made_by_us = CertStore.create_store

    def later(path: Path, *more: object) -> None:
        made_by_us(path, "mitmproxy", 2048)
        made_by_us(confdir, "mitmproxy", 2048)

    monkeypatch.setattr(CertStore, "create_store", later)

    prepared = prepare(confdir)

    assert not prepared.is_new
    taken = CertStore.from_store(confdir, "mitmproxy", 2048).default_ca
    assert taken.fingerprint().hex(":").upper() == prepared.certificate.fingerprint


def test_a_key_overwritten_meanwhile_leaves_one_whole_ca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made_by_mitmproxy: dict[str, bytes]
) -> None:
    confdir = tmp_path / "confdir"
    # Its certificate was written before ours took that place, its key after ours.
    monkeypatch.setattr("time.sleep", lambda _: (confdir / KEY).write_bytes(made_by_mitmproxy[KEY]))

    prepared = prepare(confdir)

    taken = CertStore.from_store(confdir, "mitmproxy", 2048).default_ca
    assert taken.fingerprint().hex(":").upper() == prepared.certificate.fingerprint


def test_a_key_that_mitmproxy_is_writing_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, made_by_mitmproxy: dict[str, bytes]
) -> None:
    (folder / KEY).write_bytes(b"")
    monkeypatch.setattr("time.sleep", lambda _: (folder / KEY).write_bytes(made_by_mitmproxy[KEY]))

    assert prepare(folder).certificate.fingerprint == certificate(folder / CERTIFICATE).fingerprint


def test_several_that_make_one_at_once_have_the_same(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    with context.Pool(3) as pool:
        prepared = pool.map(prepare, [tmp_path / "confdir"] * 3)

    assert len({one.certificate.fingerprint for one in prepared}) == 1
    assert [one.is_new for one in prepared].count(True) == 1


# -- mended


@posix
def test_loose_modes_are_tightened_and_reported(folder: Path) -> None:
    (folder / KEY).chmod(0o644)
    (folder / "mitmproxy-ca.p12").chmod(0o640)

    prepared = prepare(folder)

    assert mode(folder) == 0o700
    assert {mode(folder / name) for name in SECRETS} == {0o600}
    assert [word in " ".join(prepared.fixed) for word in ("0755", "0644", "0640")] == [True] * 3


@posix
def test_a_folder_writable_by_others_is_reported(folder: Path) -> None:
    folder.chmod(0o777)

    assert "others could put files there" in " ".join(prepare(folder).fixed)


def test_a_missing_certificate_is_made_from_the_key(folder: Path, made_by_mitmproxy: dict[str, bytes]) -> None:
    """As where mitmproxy was killed between the two; it would never do that itself."""
    (folder / CERTIFICATE).unlink()

    prepared = prepare(folder)

    assert (folder / CERTIFICATE).read_bytes() == made_by_mitmproxy[CERTIFICATE]
    assert "was missing" in " ".join(prepared.fixed)


def test_a_certificate_of_another_ca_is_refused(folder: Path, tmp_path: Path) -> None:
    other = prepare(tmp_path / "other").certificate.path.read_bytes()
    (folder / CERTIFICATE).write_bytes(other)

    with pytest.raises(AuthorityError, match=r"does not belong to the key.*rm "):
        prepare(folder)

    assert (folder / CERTIFICATE).read_bytes() == other


@pytest.mark.parametrize("content", [b"", b"-----BEGIN RSA PRIVATE KEY-----\nMIIE"])
def test_a_truncated_key_is_reported_with_the_fix(folder: Path, content: bytes) -> None:
    (folder / KEY).write_bytes(content)

    with pytest.raises(AuthorityError, match="run codexpool setup again"):
        prepare(folder)


# -- refused


@posix
def test_a_folder_of_another_user_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = folder.stat().st_uid
    monkeypatch.setattr("os.geteuid", lambda: owner + 1)

    with pytest.raises(AuthorityError, match="belongs to another user"):
        prepare(folder)


@posix
def test_a_link_to_a_folder_of_ones_own_is_followed(folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)

    assert prepare(link).certificate.fingerprint == certificate(folder / CERTIFICATE).fingerprint
    assert mode(folder) == 0o700
    assert link.is_symlink()


@posix
def test_a_key_that_is_no_file_is_not_waited_for(folder: Path) -> None:
    (folder / KEY).unlink()
    os.mkfifo(folder / KEY, 0o600)

    with pytest.raises(AuthorityError, match="not a regular file"):
        prepare(folder)


@posix
def test_an_unwritable_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(AuthorityError, match="--confdir PATH"):
        prepare(tmp_path / "file" / "confdir")


@posix
@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="there is no read-only folder that even root cannot use")
def test_a_read_only_file_system_says_what_to_do() -> None:
    with pytest.raises(AuthorityError, match="--confdir PATH"):
        prepare(Path("/sys/kernel/confdir"))


# -- what clients are given


def test_the_key_is_never_taken_for_the_certificate(folder: Path) -> None:
    with pytest.raises(AuthorityError, match="private key"):
        certificate(folder / KEY)


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_a_file_without_a_certificate_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / CERTIFICATE
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(AuthorityError, match=str(path)):
        certificate(path)


# -- where it is


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, "~/.mitmproxy"),
        ("listen_port: 8081\n", "~/.mitmproxy"),
        ("confdir: ~/elsewhere\n", "~/elsewhere"),
        (": [", "~/.mitmproxy"),
    ],
)
def test_the_folder_is_the_one_that_mitmproxy_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str | None, expected: str
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mitmproxy").mkdir()
    if config is not None:
        (tmp_path / ".mitmproxy" / "config.yaml").write_text(config)

    assert confdir() == Path(expected).expanduser()


def test_looking_for_certificates_needs_no_mitmproxy() -> None:
    """It is imported by commands that are to be there at once."""
    code = "import sys, codexpool.local.ca_files; sys.exit('mitmproxy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
