"""What a client reads, and whether it leads to the proxy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from codexpool.doctor import variables
from codexpool.doctor.environment import WORKLOAD, bypasses, client_environment, codex_home, dotenv
from codexpool.doctor.findings import Finding, Level
from tests.doctor.fakes import KEY, client

HERE = ("127.0.0.1", 8080)


def levels(findings: Any) -> list[Level]:
    return [finding.level for finding in findings]


def only(findings: Any) -> Finding:
    (finding,) = findings
    assert isinstance(finding, Finding)
    return finding


# -- NO_PROXY


@pytest.mark.parametrize(
    ("no_proxy", "entry"),
    [
        ("", ""),
        ("localhost,127.0.0.1", ""),
        ("chatgpt.com", "chatgpt.com"),
        (".chatgpt.com", ".chatgpt.com"),
        ("ChatGPT.com", "ChatGPT.com"),
        (" a.example , chatgpt.com ", "chatgpt.com"),
        ("com", "com"),
        (".com", ".com"),
        ("*", "*"),
        ("localhost, *", "*"),
        ("gpt.com", ""),
        ("*.chatgpt.com", ""),
        ("x.chatgpt.com", ""),
        ("chatgpt.com:443", "chatgpt.com:443"),  # for WebSockets
        ("a.example chatgpt.com", ""),
        ("10.0.0.0/8,::1", ""),
    ],
)
def test_no_proxy_is_read_as_the_client_reads_it(no_proxy: str, entry: str) -> None:
    assert bypasses(no_proxy, "chatgpt.com") == entry


@pytest.mark.parametrize("value", ["chatgpt.com", "*", "openai.com"])
def test_a_host_that_bypasses_the_proxy_is_wrong(value: str) -> None:
    findings = list(variables.of_bypass(client({"no_proxy": value})))
    besides = list(variables.of_bypass(client({"NO_PROXY": f"a.example, {value} ,.corp"})))
    in_file = client({"NO_PROXY": f"a.example,{value}"}, from_dotenv=frozenset({"NO_PROXY"}))

    assert set(levels(findings)) == {Level.WRONG}
    assert {finding.remedy for finding in findings} == {"unset no_proxy"}
    assert {finding.remedy for finding in besides} == {"export NO_PROXY=a.example,.corp"}
    assert {one.remedy for one in variables.of_bypass(in_file)} == {"change it there to NO_PROXY=a.example"}
    assert f'"{value}"' in findings[0].text


def test_no_proxy_for_others_is_fine() -> None:
    assert levels(variables.of_bypass(client({"NO_PROXY": "localhost,.corp.example"}))) == [Level.OK]


# -- HTTPS_PROXY


@pytest.mark.parametrize(
    ("value", "level", "said"),
    [
        ("http://127.0.0.1:8080", None, ""),
        ("http://team:secret@127.0.0.1:8080", None, ""),
        ("http://work:@127.0.0.1:8080", Level.OK, "names the identity work"),
        ("work@127.0.0.1:8080", Level.OK, "names the identity work"),
        ("http://team%2Bwork:secret@127.0.0.1:8080", Level.OK, "names the identity work"),
        ("http://wrok:@127.0.0.1:8080", Level.WRONG, "the pool does not have: wrok"),
        (f"http://{KEY}@127.0.0.1:8080", Level.WRONG, "the pool does not have: no valid name"),
    ],
)
def test_identity_in_the_proxys_url_is_checked(value: str, level: Level | None, said: str) -> None:
    found = list(variables.of_identity(client({"HTTPS_PROXY": value}), ["work", "spare"]))

    assert levels(found) == ([level] if level is not None else [])
    assert all(said in finding.text for finding in found)
    assert KEY not in str(found)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, ""),
        ({"HTTPS_PROXY": "http://a:1", "https_proxy": "http://b:1"}, "HTTPS_PROXY"),
        ({"https_proxy": "http://b:1"}, "https_proxy"),
        ({"ALL_PROXY": "http://c:1"}, "ALL_PROXY"),
        ({"HTTPS_PROXY": "", "https_proxy": "http://b:1"}, ""),
        ({"HTTPS_PROXY": "", "ALL_PROXY": "http://c:1"}, "ALL_PROXY"),
        ({"HTTP_PROXY": "http://d:1"}, ""),
    ],
)
def test_the_proxy_variable_is_the_one_the_client_uses(environ: dict[str, str], name: str) -> None:
    assert client(environ).proxy_variable()[0] == name


@pytest.mark.parametrize(
    ("value", "level"),
    [
        ("http://127.0.0.1:8080", Level.OK),
        ("127.0.0.1:8080", Level.OK),
        ("http://localhost:8080/", Level.OK),
        ("http://[::1]:8080", Level.OK),
        ("http://user:s3cret@127.0.0.1:8080", Level.OK),
        ("http://127.0.0.1:8081", Level.WRONG),
        ("http://proxy.corp.example:8080", Level.WRONG),
        ("socks5://127.0.0.1:8080", Level.WRONG),
        ("http://127.0.0.1:no", Level.WRONG),
    ],
)
def test_the_client_must_use_this_proxy(value: str, level: Level) -> None:
    finding = variables.of_proxy(client({"HTTPS_PROXY": value}), HERE, ())

    assert finding.level is level
    assert "s3cret" not in finding.text + finding.remedy


def test_the_proxy_may_listen_at_another_address() -> None:
    finding = variables.of_proxy(client({"HTTPS_PROXY": "http://10.1.2.3:8080"}), HERE, [("10.1.2.3", 8080)])

    assert finding.level is Level.OK


def test_a_missing_variable_has_the_line_to_type() -> None:
    finding = variables.of_proxy(client(), HERE, ())

    assert finding.level is Level.WRONG
    assert "HTTPS_PROXY=http://127.0.0.1:8080" in finding.remedy


# -- credentials, and what else leads elsewhere


@pytest.mark.parametrize(
    ("environ", "level", "words"),
    [
        ({"CODEX_ACCESS_TOKEN": KEY}, Level.OK, "a member key, sha256:"),
        ({"CODEX_ACCESS_TOKEN": "at-test-0123456789abcdef"}, Level.OK, "a personal access token, sha256:"),
        ({"CODEX_ACCESS_TOKEN": "eyJ0ZXN0.eyJ0ZXN0.dGVzdA"}, Level.WRONG, "agent identity"),
        ({"CODEX_API_KEY": "sk-test-0123456789abcdef"}, Level.WRONG, "api.openai.com"),
    ],
)
def test_a_credential_is_named_and_never_shown(environ: dict[str, str], level: Level, words: str) -> None:
    finding = only(variables.of_credentials(client(environ)))

    assert finding.level is level
    assert words in finding.text
    assert not [value for value in environ.values() if value in finding.text + finding.remedy]


@pytest.mark.parametrize("name", WORKLOAD)
@pytest.mark.parametrize("value", ["x", ""])
def test_a_workload_identity_wins_over_a_member_key(name: str, value: str) -> None:
    with_key = only(variables.of_workload_identity(client({name: value, "CODEX_ACCESS_TOKEN": KEY})))
    without = only(variables.of_workload_identity(client({name: value})))

    assert (with_key.level, without.level) == (Level.WRONG, Level.NOTE)
    assert "ignores CODEX_ACCESS_TOKEN" in with_key.text
    assert with_key.remedy == without.remedy == f"unset {name}"


def test_a_workload_identity_in_dotenv_is_removed_there() -> None:
    here = client({"OPENAI_SPIFFE_ID": "x"}, from_dotenv=frozenset({"OPENAI_SPIFFE_ID"}))

    assert only(variables.of_workload_identity(here)).remedy == f"remove what is in {here.home / '.env'}"


def test_without_its_variables_there_is_no_workload_identity() -> None:
    """The socket alone does not make one (0.171.0)."""
    assert list(variables.of_workload_identity(client({"SPIFFE_ENDPOINT_SOCKET": "unix:///x"}))) == []


@pytest.mark.parametrize("environ", [{}, {"CODEX_API_KEY": " "}, {"CODEX_ACCESS_TOKEN": ""}])
def test_an_empty_variable_is_none(environ: dict[str, str]) -> None:
    assert list(variables.of_credentials(client(environ))) == []


@pytest.mark.parametrize(
    "environ",
    [
        {"CODEX_SANDBOX": "seatbelt"},
        {"CODEX_AUTHAPI_BASE_URL": "http://127.0.0.1:9/api"},
    ],
)
def test_variables_that_lead_elsewhere_are_wrong(environ: dict[str, str]) -> None:
    assert levels(variables.of_the_rest(client(environ))) == [Level.WRONG]


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({}, False),
        ({"chatgpt_base_url": "https://chatgpt.com/backend-api/"}, False),
        ({"chatgpt_base_url": "https://other.example/backend-api/"}, True),
        ({"openai_base_url": "http://127.0.0.1:4000/v1"}, True),
        ({"model_provider": "openai"}, False),
        ({"model_provider": "azure"}, True),
        (
            {"model_provider": "x", "model_providers": {"x": {"base_url": "https://chatgpt.com/backend-api/codex"}}},
            False,
        ),
        ({"model_provider": "x", "model_providers": {"x": {"base_url": "http://127.0.0.1:1"}}}, True),
    ],
)
def test_config_toml_that_leads_elsewhere_is_wrong(config: dict[str, Any], wrong: bool) -> None:
    assert levels(variables.of_config(client(config=config))) == ([Level.WRONG] if wrong else [])


# -- files of the client


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("A=b", "b"),
        ("export A=b", "b"),
        ("A = b # why", "b"),
        ("A='b # c' # why", "b # c"),
        ('A="b"', "b"),
        ("A=", ""),
        ("# A=c\nA=b", "b"),
        ("A=a\nA=b", "b"),
        ("A=http://h:1/#x", "http://h:1/#x"),
    ],
)
def test_dotenv_is_read(text: str, value: str) -> None:
    assert dotenv(text) == {"A": value}


def test_dotenv_overrides_all_but_codex_names(tmp_path: Path) -> None:
    home = tmp_path / ".codex"
    home.mkdir()
    (home / ".env").write_text("HTTPS_PROXY=http://127.0.0.1:8080\nCODEX_CA_CERTIFICATE=/ca.pem\n")

    found = client_environment({"HOME": str(tmp_path), "HTTPS_PROXY": "http://elsewhere:1"})

    assert found.variables["HTTPS_PROXY"] == "http://127.0.0.1:8080"
    assert "CODEX_CA_CERTIFICATE" not in found.variables
    assert found.where("HTTPS_PROXY") == f"HTTPS_PROXY (in {home / '.env'})"
    note = only(variables.of_the_rest(found))
    assert note.level is Level.NOTE
    assert "SSL_CERT_FILE" in note.remedy


def test_a_config_that_is_not_toml_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("a = = 1")

    found = client_environment({"CODEX_HOME": str(tmp_path)})

    assert codex_home({"CODEX_HOME": str(tmp_path)}) == tmp_path
    assert levels(variables.of_config(found)) == [Level.WRONG]
