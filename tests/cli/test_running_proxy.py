"""Which proxy is found, and what is reported if it does not answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

import click
import pytest

from codexpool.cli import running_proxy
from codexpool.cli.common import Failure
from codexpool.cli.running_proxy import Address, ProxyFailure, address, certificate_of, find_proxy
from codexpool.local.ca_files import CERTIFICATE
from codexpool.local.running_proxies import Announcement
from tests.cli.fakeproxy import FakeProxy, running
from tests.standin.certificates import Authority

HTML = "<html><h1>502 Bad Gateway</h1></html>"


@pytest.fixture(autouse=True)
def _no_proxy_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CODEXPOOL_PROXY", raising=False)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def announcement(port: int, started_at: float = 1.0) -> Announcement:
    return Announcement(4711, (f"127.0.0.1:{port}",), started_at, "12.3.1", "0.1.0")


def announces(monkeypatch: pytest.MonkeyPatch, *found: Announcement) -> None:
    """These proxies have announced themselves."""
    newest_first = sorted(found, key=lambda one: one.started_at, reverse=True)
    monkeypatch.setattr(running_proxy, "announced", lambda folder: newest_first)


# -- which proxy


def test_the_named_proxy_is_asked(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEXPOOL_PROXY", "http://127.0.0.1:1")
    announces(monkeypatch, announcement(1))

    assert find_proxy(fake.url).get("/api/status")["version"] == 1


def test_the_environment_precedes_announcements(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODEXPOOL_PROXY", fake.url)
    announces(monkeypatch, announcement(1))

    assert find_proxy(None).at.port == fake.port


def test_an_announced_proxy_is_found(
    fake: FakeProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announces(monkeypatch, announcement(fake.port))

    assert find_proxy(None).at.port == fake.port
    assert capsys.readouterr().err == ""


def test_the_newest_of_several_is_used_and_others_named(
    fake: FakeProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with running() as newer:
        announces(monkeypatch, announcement(fake.port, 1.0), announcement(newer.port, 2.0))

        found = find_proxy(None)

    assert found.at.port == newer.port
    said = capsys.readouterr().err
    assert f"127.0.0.1:{fake.port}" in said
    assert "--proxy" in said


def test_a_silent_proxy_is_skipped(
    fake: FakeProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announces(monkeypatch, announcement(fake.port, 1.0), announcement(free_port(), 2.0))

    assert find_proxy(None).at.port == fake.port
    assert capsys.readouterr().err == ""


def test_the_default_is_mitmproxys_port(monkeypatch: pytest.MonkeyPatch) -> None:
    announces(monkeypatch)

    assert str(find_proxy(None)) == "127.0.0.1:8080"


def test_a_silent_announced_proxy_is_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = free_port()
    announces(monkeypatch, announcement(silent))
    monkeypatch.setattr(running_proxy, "DEFAULT", f"http://127.0.0.1:{free_port()}")

    with pytest.raises(ProxyFailure, match=f"127.0.0.1:{silent}, but does not answer"):
        find_proxy(None).get("/api/status")


# -- its authority


def test_a_certificate_is_that_of_the_proxy_or_none(
    fake: FakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".mitmproxy").mkdir()
    own = Authority(tmp_path).ca_file.rename(tmp_path / ".mitmproxy" / CERTIFICATE)
    (tmp_path / "other").mkdir()
    proxy = find_proxy(fake.url)

    assert certificate_of(proxy) == own  # It does not say.
    fake.answers["/ca.pem"] = (200, own.read_text())
    assert certificate_of(proxy) == own
    fake.answers["/ca.pem"] = (200, Authority(tmp_path / "other").ca_file.read_text())
    assert certificate_of(proxy) is None


# -- how it is written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://127.0.0.1:8081", Address("127.0.0.1", 8081)),
        ("http://127.0.0.1:8081/", Address("127.0.0.1", 8081)),
        ("127.0.0.1:8081", Address("127.0.0.1", 8081)),
        ("localhost:8081", Address("localhost", 8081)),
        (" 8081 ", Address("127.0.0.1", 8081)),
        (":8081", Address("127.0.0.1", 8081)),
        ("http://[::1]:8081", Address("::1", 8081)),
        ("http://localhost", Address("localhost", 80)),
        ("http://me:se%40cret@127.0.0.1:8081", Address("127.0.0.1", 8081, "me", "se@cret")),
    ],
)
def test_forms_of_an_address(text: str, expected: Address) -> None:
    assert address(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "https://127.0.0.1:8080",
        "socks5://127.0.0.1:1080",
        "http://127.0.0.1:8080/page",
        "http://127.0.0.1:8080?x",
        "http://:8080",
        "http://127.0.0.1:nothing",
        "http://me:se-cret@127.0.0.1:999999",
        "http://",
        "",
    ],
)
def test_an_invalid_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(click.UsageError) as raised:
        address(text)

    assert "se-cret" not in raised.value.message


# -- passwords


def test_a_password_is_sent_and_never_shown(fake: FakeProxy) -> None:
    fake.credentials = ("me", "se-cret")
    asked = find_proxy(f"http://me:se-cret@127.0.0.1:{fake.port}")

    assert asked.get("/api/status")["version"] == 1
    assert "se-cret" not in f"{asked} {asked.at!r} {asked.at}"


def test_a_required_password_fails_with_a_remedy(fake: FakeProxy) -> None:
    fake.credentials = ("me", "se-cret")

    with pytest.raises(ProxyFailure, match="CODEXPOOL_PROXY=http://USER:PASSWORD@") as raised:
        find_proxy(fake.url).get("/api/status")

    assert raised.value.status == 407


def test_a_wrong_password_is_reported_and_not_repeated(fake: FakeProxy) -> None:
    fake.credentials = ("me", "se-cret")

    with pytest.raises(ProxyFailure, match="refused those given") as raised:
        find_proxy(f"http://me:wr-ong@127.0.0.1:{fake.port}").get("/api/status")

    assert "wr-ong" not in raised.value.message


# -- what goes wrong


def test_without_a_listener_the_remedy_is_named() -> None:
    with pytest.raises(ProxyFailure, match="codexpool run"):
        find_proxy(f"http://127.0.0.1:{free_port()}").get("/api/status")


@pytest.mark.parametrize(
    "answer",
    [
        *((502, HTML), (200, HTML), (404, "not found"), (200, "[1]"), (200, ""), (301, ""), (200, "[" * 9999)),
        *((200, {}), (200, {"status": "ok"}), (200, {"version": 1}), (200, {"version": 1, "proxy": [1]})),
    ],
)
def test_an_answer_not_from_codexpool_is_recognised(fake: FakeProxy, answer: tuple[int, Any]) -> None:
    fake.answers["/api/status"] = answer

    with pytest.raises(ProxyFailure, match="a proxy without the codexpool addon"):
        find_proxy(fake.url).get("/api/status")


@pytest.mark.parametrize("said", [b"SSH-2.0-server\r\n", b"\x15\x03\x01\x00\x02\x02\x16", b""])
def test_a_server_without_http_is_recognised(said: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(said)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ProxyFailure, match="no proxy is running"):
            find_proxy(f"http://127.0.0.1:{server.getsockname()[1]}").get("/api/status")


def test_a_stuck_proxy_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(ProxyFailure, match="stuck"):
        find_proxy(f"http://127.0.0.1:{server.getsockname()[1]}").get("/api/status", timeout=0.2)


@pytest.mark.parametrize(("most", "timeout"), [(1_000, 30.0), (1 << 40, 0.2)])
def test_an_answer_without_end_is_left(monkeypatch: pytest.MonkeyPatch, most: int, timeout: float) -> None:
    """Whether it is too long, or each piece of it comes in time."""
    monkeypatch.setattr(running_proxy, "MOST", most)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection, contextlib.suppress(OSError):
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                while True:
                    connection.sendall(bytes(500))

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ProxyFailure, match="did not answer"):
            find_proxy(f"http://127.0.0.1:{server.getsockname()[1]}").get("/api/status", timeout)


def test_a_refusal_of_another_machine_has_a_remedy(fake: FakeProxy) -> None:
    fake.answers["/api/status"] = (403, {"error": {"message": "this page is for the machine that the proxy runs on"}})

    with pytest.raises(ProxyFailure, match="Run this on the proxy's machine"):
        find_proxy(fake.url).get("/api/status")


def test_an_older_proxy_is_reported(fake: FakeProxy) -> None:
    with pytest.raises(ProxyFailure, match="older than this command"):
        find_proxy(fake.url).get("/api/later")


def test_a_proxy_of_another_version_is_reported(fake: FakeProxy) -> None:
    fake.answers["/api/status"] = (200, {"version": 2})

    with pytest.raises(Failure, match="different release of codexpool"):
        find_proxy(fake.url).get("/api/status")


def test_an_error_message_cannot_control_the_terminal(fake: FakeProxy) -> None:
    fake.answers["/api/status"] = (400, {"error": {"message": "\x1b[31mred\nline" + "x" * 5000}})

    with pytest.raises(ProxyFailure) as raised:
        find_proxy(fake.url).get("/api/status")

    assert raised.value.message.isprintable()
    assert len(raised.value.message) < 500


def test_proxy_variables_of_the_shell_are_ignored(fake: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert find_proxy(fake.url).get("/api/status")["version"] == 1


def test_announcements_are_beside_the_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []
    monkeypatch.setenv("CODEXPOOL_STATE", str(tmp_path / "state.sqlite3"))

    def announced(folder: Path) -> list[Announcement]:
        looked_at.append(folder)
        return []

    monkeypatch.setattr(running_proxy, "announced", announced)

    find_proxy(None)

    assert looked_at == [tmp_path]
