"""The upstream proxy: how it is named, and which hosts are reached without it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codexpool.credentials.upstream_proxy import VARIABLE, UpstreamProxy, is_direct, of_environ, parse

ANY = st.text(st.characters(codec="utf-8"))


@given(user=st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1), password=ANY)
def test_any_user_and_password_can_be_percent_encoded(user: str, password: str) -> None:
    text = f"http://{quote(user, safe='')}:{quote(password, safe='')}@corp.example:3128"

    assert parse(text, "--via") == UpstreamProxy("http", "corp.example", 3128, f"{user}:{password}")


@given(st.text(st.characters(codec="ascii", exclude_characters="% ", exclude_categories=["Cc"])))
@example("p@ss/w#rd?x:9@host")
def test_nearly_any_password_may_also_be_given_as_it_is(password: str) -> None:
    assert parse(f"http://DOMAIN\\kim:{password}@corp:3128", "--via").auth == f"DOMAIN\\kim:{password}"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("corp:3128", "http://corp:3128"),
        ("http://corp", "http://corp:80"),
        ("HTTPS://corp/", "https://corp:443"),
        (" http://[::1]:3128\n", "http://[::1]:3128"),
        ("http://kim@corp:3128", "http://kim:@corp:3128"),
    ],
)
def test_what_is_missing_has_its_default(text: str, url: str) -> None:
    assert parse(text, "--via").url == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("socks5://kim:hunter2@corp:1080", "SOCKS is not supported"),
        ("ftp://kim:hunter2@corp", "not the URL of an HTTP proxy"),
        ("htps://kim:hunter2@corp:3128", "not the URL of an HTTP proxy"),
        ("http://kim:hunter2%FC@corp:3128", "must be UTF-8"),
        ("http://kim:hunter2\udcfc@corp:3128", "must be UTF-8"),
        ("http://kim:hunter2@", "not the URL of an HTTP proxy"),
        ("http://kim:hunter2@corp:port", "not the URL of an HTTP proxy"),
        ("http://kim:hunter2@corp:3128/path", "not the URL of an HTTP proxy"),
        ("http://kim:hunter2@corp:3128?query", "not the URL of an HTTP proxy"),
        ("http://:hunter2@corp:3128", "not the URL of an HTTP proxy"),
        ("http://kim%3Ax:hunter2@corp:3128", "a user name with a colon"),
    ],
)
def test_an_invalid_one_is_refused_without_its_password(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^{VARIABLE}: .*{words}") as raised:
        of_environ({VARIABLE: text})
    assert "hunter2" not in str(raised.value)


def test_a_password_is_not_shown() -> None:
    proxy = parse("http://kim:hunter2@corp:3128", "--via")

    assert "hunter2" not in f"{proxy} {proxy!r}"
    assert str(proxy) == "corp:3128"


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}, {VARIABLE: " "}, {"HTTPS_PROXY": "http://pool:8080"}])
def test_without_the_variable_there_is_none(environ: dict[str, str]) -> None:
    assert of_environ(environ) is None


@pytest.mark.parametrize(
    ("excluded", "host", "direct"),
    [
        *(("", host, True) for host in ("localhost", "127.0.0.1", "127.1.2.3", "::1")),
        ("", "chatgpt.com", False),
        ("chatgpt.com", "CHATGPT.com", True),
        (" a.example , .corp.example", "chat.corp.example", True),
        ("*.corp.example", "chat.corp.example", True),
        ("corp.example", "chat.corp.example", True),
        ("corp.example", "notcorp.example", False),
        ("*", "chatgpt.com", True),
        ("10.0.0.0/8,fd00::/8", "10.1.2.3", True),
        ("10.0.0.0/8,fd00::/8", "fd00::1", True),
        ("10.0.0.0/8,fd00::/8", "192.0.2.1", False),
        ("[fd00::1]", "fd00::1", True),
        (",,", "chatgpt.com", False),
    ],
)
def test_this_machine_and_what_no_proxy_names_is_reached_directly(excluded: str, host: str, direct: bool) -> None:
    assert is_direct(host, excluded) is direct
