"""`codexpool diff` reads flows, HAR files and the running proxy, and its exit code says whether anything differs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from mitmproxy.http import Headers, HTTPFlow
from mitmproxy.io import FlowWriter
from mitmproxy.net import encoding
from mitmproxy.test import tflow, tutils
from mitmproxy.websocket import WebSocketMessage
from wsproto.frame_protocol import Opcode

from codexpool.cli.commands.diff import diff
from codexpool.cli.saved_flows import named
from tests.cli.fakeproxy import running
from tests.running import pat, pool_toml
from tests.traces.documents import FLOW, document

URL = "https://chatgpt.com/backend-api/codex/responses"
PAT = "at-test-work-0123456789abcdef0123456789"
"""This must never be shown."""


def run(*arguments: str | Path, **env: str) -> Result:
    return CliRunner().invoke(diff, list(map(str, arguments)), env={"COLUMNS": "160", **env}, catch_exceptions=False)


def flow(path: str = "/backend-api/codex/responses", host: str = "chatgpt.com", **changes: Any) -> HTTPFlow:
    """A flow of mitmproxy's; ``headers`` and ``body`` are of the request, ``document`` is the addon's."""
    given = {"version": "0.169.0", "authorization": f"Bearer {PAT}", "content-type": "application/json"}
    request = tutils.treq(
        method=changes.get("method", "POST").encode(),
        scheme=b"https",
        host=host,
        port=443,
        path=path.encode(),
        headers=Headers([(n.encode(), v.encode()) for n, v in {**given, **changes.get("headers", {})}.items()]),
        content=changes.get("body", b'{"model": "gpt-5"}'),
        timestamp_start=1764000000.0,
    )
    made = tflow.tflow(req=request, resp=tutils.tresp(status_code=changes.get("status", 200)))
    if "document" in changes:
        made.metadata["codexpool"] = changes["document"]
    return made


def dump(path: Path, *flows: Any) -> Path:
    with path.open("wb") as file:
        writer = FlowWriter(file)
        for one in flows:
            writer.add(one)
    return path


def entry(**changes: Any) -> dict[str, Any]:
    """An entry of a HAR file; ``request`` and ``response`` are changed member by member."""
    request = {
        "method": "POST",
        "url": URL,
        "httpVersion": "http/2.0",
        "headers": [{"name": "version", "value": "0.169.0"}, {"name": "content-type", "value": "application/json"}],
        "postData": {"mimeType": "application/json", "text": '{"model": "gpt-5"}'},
        **changes.pop("request", {}),
    }
    response = {"status": 200, "httpVersion": "http/2.0", "headers": [], "content": {}, **changes.pop("response", {})}
    at = "2026-11-25T01:02:03.456Z"
    return {"startedDateTime": at, "time": 3.0, "request": request, "response": response, **changes}


def archive(path: Path, *entries: Any) -> Path:
    path.write_text(json.dumps({"log": {"version": "1.2", "entries": list(entries)}}), encoding="utf-8")
    return path


# -- what it says


def test_equal_flows_exit_with_0(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow(), flow())

    result = run(f"{file}#1", f"{file}#2")

    assert result.exit_code == 0
    assert "nothing differs" in result.output
    assert f"- A  {file}#1: POST {URL}" in result.output
    assert f"+ B  {file}#2: POST {URL}" in result.output


def test_different_flows_exit_with_1_and_show_no_secret(tmp_path: Path) -> None:
    other = flow(headers={"version": "0.170.0", "authorization": f"Bearer {PAT}x"}, body=b'{"model": "gpt-5.1"}')
    file = dump(tmp_path / "flows", flow(), other)

    result = run(f"{file}#1", f"{file}#2")

    assert result.exit_code == 1
    assert "~ version\n    A  0.169.0\n    B  0.170.0\n      The client's version" in result.output
    assert (
        "~ authorization\n    A  Bearer PAT 39 chars sha256:40c025b2aff6\n    B  Bearer PAT 40 chars" in result.output
    )
    assert '~ model\n    A  "gpt-5"\n    B  "gpt-5.1"' in result.output
    assert PAT[10:22] not in result.output


def test_json_has_the_same_and_nothing_else(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow(), flow(headers={"version": "0.170.0"}))

    told = json.loads(run(f"{file}#1", f"{file}#2", "--json").output)

    assert told["differences"] == [
        {
            "part": "headers",
            "name": "version",
            "sign": "~",
            "a": "0.169.0",
            "b": "0.170.0",
            "means": "The client's version; decides which models it is offered.",
        }
    ]
    assert told["notes"] == []


@pytest.mark.parametrize("coding", ["zstd", "gzip", "deflate", "br"])
def test_bodies_are_compared_without_their_coding(tmp_path: Path, coding: str) -> None:
    def coded(model: str) -> HTTPFlow:
        body = encoding.encode(json.dumps({"model": model}).encode(), coding)
        return flow(headers={"content-encoding": coding}, body=body)

    file = dump(tmp_path / "flows", coded("gpt-5"), coded("gpt-5.1"))

    assert '~ model\n    A  "gpt-5"\n    B  "gpt-5.1"' in run(f"{file}#1", f"{file}#2").output


def test_body_that_cannot_be_decoded_is_compared_as_it_is(tmp_path: Path) -> None:
    one, other = (flow(headers={"content-encoding": "zstd"}, body=body) for body in (b"broken", b"broken too"))
    file = dump(tmp_path / "flows", one, other)

    assert "~ text\n    A  broken\n    B  broken too" in run(f"{file}#1", f"{file}#2").output


def test_answers_can_be_left_out(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow(), flow(status=401))

    assert run(f"{file}#1", f"{file}#2").exit_code == 1
    assert run(f"{file}#1", f"{file}#2", "--no-answers").exit_code == 0


def test_the_clients_own_headers_are_compared(tmp_path: Path) -> None:
    dressed = flow(headers={"authorization": "Bearer <codexpool:work>"}, document=document())
    file = dump(tmp_path / "flows", dressed, flow(headers={"authorization": "Bearer <codexpool:work>"}))

    output = run(f"{file}#1", f"{file}#2").output

    assert "~ authorization\n    A  Bearer PAT 41 chars sha256:c11e47d0a1b2\n    B  Bearer <codexpool:work>" in output


@pytest.mark.parametrize("broken", [{"version": 1}, {**document(), "attempts": 3}])
def test_a_flow_with_an_unreadable_trace_is_compared_as_it_is(tmp_path: Path, broken: Any) -> None:
    file = dump(tmp_path / "flows", flow(document=broken), flow())

    assert run(f"{file}#1", f"{file}#2").exit_code == 0


def test_a_secret_in_a_forged_trace_is_not_shown(tmp_path: Path) -> None:
    forged = document(request_headers=[["authorization", f"Bearer {PAT}"], ["x-a", f"see {PAT}"]])
    file = dump(tmp_path / "flows", flow(document=forged), flow(headers={"x-b": "1"}))

    assert PAT[10:22] not in run(f"{file}#1", f"{file}#2").output


def test_the_last_message_on_a_websocket_is_compared(tmp_path: Path) -> None:
    def socket(model: str) -> HTTPFlow:
        made = tflow.twebsocketflow()
        assert made.websocket is not None
        made.websocket.messages = [
            WebSocketMessage(Opcode.TEXT, True, json.dumps({"type": "response.create", "model": model}).encode()),
            WebSocketMessage(Opcode.TEXT, False, b'{"type": "response.completed"}'),
        ]
        return made

    file = dump(tmp_path / "flows", socket("gpt-5"), socket("gpt-5.1"))

    assert '~ model\n    A  "gpt-5"\n    B  "gpt-5.1"' in run(f"{file}#1", f"{file}#2").output


# -- which request is meant


def test_the_default_is_the_last_request_of_codexpool(tmp_path: Path) -> None:
    file = dump(
        tmp_path / "flows",
        flow(headers={"version": "1"}, document=document()),
        flow(headers={"version": "2"}, document=document()),
        flow("/otlp/v1/metrics", "ab.chatgpt.com", headers={"version": "3"}),
    )

    assert f"+ B  {file}#2: " in run(f"{file}#1", file).output


def test_the_default_without_one_is_the_last_request(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow("/a", "x.example"), flow("/b", "x.example"))

    assert f"{file}#2: POST https://x.example/b" in run(file, file).output


def test_a_request_is_selected_from_the_end_or_by_its_id(tmp_path: Path) -> None:
    flows = [flow(), flow(), tflow.ttcpflow(), flow()]
    flows[1].id = "0d5f4d2c-7a0e-4d86-9b1c-6a3a53f7f0e1"
    file = dump(tmp_path / "flows", *flows)

    output = run(f"{file}#-1", f"{file}#0d5f").output

    assert f"- A  {file}#3: " in output
    assert f"+ B  {file}#2: " in output


def test_a_file_with_a_number_sign_in_its_name_is_found(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows#2", flow())

    assert run(file, f"{file}#1").exit_code == 0


@pytest.mark.parametrize(
    ("which", "words"),
    [
        ("#4", "has 2 requests; there is no #4"),
        ("#-3", "has 2 requests; there is no #-3"),
        ("#0", "1 is the first"),
        ("#x", "1 is the first"),
        ("#0d5f4", "no flows have an id that begins with 0d5f4"),
    ],
)
def test_a_missing_request_is_an_error(tmp_path: Path, which: str, words: str) -> None:
    file = dump(tmp_path / "flows", flow(), flow())

    result = run(f"{file}{which}", file)

    assert result.exit_code == 2
    assert words in result.output


# -- files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no HTTP request"),
        (b"hello", "is neither a flow file nor a HAR file"),
        (b"\x00\xff" * 50, "is neither a flow file nor a HAR file"),
        (b"5:hello,", "is neither a flow file nor a HAR file"),
        (b"[1, 2]", "is neither a flow file nor a HAR file"),
        (b'{"log": \n {"entries": [}', "is not a HAR file that mitmproxy can read"),
        (b'{"entries": []}', "is not a HAR file that mitmproxy can read"),
        (b'{"log": {"entries": []}}', "has no HTTP request"),
        (b'{"log": {"entries": [7]}}', "is not a HAR file that mitmproxy can read"),
        (b'{"log": {"entries": [{}]}}', "is not a HAR file that mitmproxy can read"),
        (b'\xef\xbb\xbf{"log": {"entries": [{}]}}', "is not a HAR file that mitmproxy can read"),
        (b'{"log": {"entries": ' + b"[" * 100_000, ""),
    ],
)
def test_an_unreadable_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, words: str) -> None:
    file = tmp_path / "broken"
    file.write_bytes(content)

    result = run(file, file)

    assert result.exit_code == 2
    assert f"{file}" in result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_file_without_permission_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = dump(tmp_path / "flows", flow())

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)

    result = run(file, file)

    assert (result.exit_code, "cannot be read (Permission denied)" in result.output) == (2, True)


def test_the_beginning_of_a_cut_dump_can_be_compared(tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow(), flow(), flow())
    file.write_bytes(file.read_bytes()[:-20])

    assert run(f"{file}#1", f"{file}#2").exit_code == 0
    assert run(f"{file}#1", f"{file}#-1").exit_code == 0


@given(st.binary(max_size=300))
def test_no_broken_file_causes_a_traceback(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.mktemp("broken") / "flows"
    file.write_bytes(content)

    assert run(file, file).exit_code in (0, 2)


# -- HAR files


def test_har_files_are_compared_with_flows(tmp_path: Path) -> None:
    one = archive(tmp_path / "a.har", entry())
    other = dump(tmp_path / "flows", flow(headers={"authorization": "x"}, status=200))

    output = run(one, other, "--no-answers").output

    assert "+ authorization: secret 1 char\n" in output
    assert "~" not in output.partition("\n\n")[2]


def test_pseudo_headers_of_har_files_are_left_out(tmp_path: Path) -> None:
    headers = [["version", "1"], [":authority", "chatgpt.com"]]
    one = archive(tmp_path / "a.har", entry(request={"headers": headers}))
    other = archive(tmp_path / "b.har", entry(request={"headers": headers[:1]}))

    assert run(one, other).exit_code == 0


def test_har_entry_without_an_answer_has_none(tmp_path: Path) -> None:
    one = archive(tmp_path / "a.har", entry(response={"status": 0}))
    other = archive(tmp_path / "b.har", entry())

    assert "+ status: 200" in run(one, other).output


def test_a_har_file_of_mitmproxy_is_compared_with_its_dump(tmp_path: Path) -> None:
    from mitmproxy.addons.savehar import SaveHar

    made = flow(body=zlib.compress(b'{"model": "gpt-5"}'), headers={"content-encoding": "deflate"})
    file = dump(tmp_path / "flows", made)
    written = tmp_path / "written.har"
    written.write_text(json.dumps(SaveHar().make_har([made])))

    result = run(file, written)

    assert result.exit_code == 0, result.output


# -- the running proxy


OTHER = "beef4d2c-7a0e-4d86-9b1c-6a3a53f7f0e1"


@pytest.fixture
def proxy() -> Iterator[str]:
    """The address of something that answers as a proxy with the addon does."""
    with running() as fake:
        fake.flows = [document(), document(id=OTHER, method="GET"), {"id": "dead", "version": 1}]
        yield fake.url


def test_flows_that_a_proxy_remembers_are_compared(proxy: str) -> None:
    result = run("last", OTHER, "--proxy", proxy)

    assert result.exit_code == 1
    assert "~ method\n    A  POST\n    B  GET" in result.output
    assert "(last: its body is not known)" in result.output


def test_flow_of_a_proxy_is_compared_with_a_file(proxy: str, tmp_path: Path) -> None:
    file = dump(tmp_path / "flows", flow(document=document()))

    result = run(file, "last", "--proxy", proxy, "--no-answers")

    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(("which", "words"), [("0000", "no flow of that id"), ("dead", "cannot read the proxy")])
def test_an_unknown_flow_of_a_proxy_is_an_error(proxy: str, which: str, words: str) -> None:
    result = run(which, "last", "--proxy", proxy)

    assert result.exit_code == 2
    assert words in result.output


def test_a_missing_proxy_is_an_error(tmp_path: Path) -> None:
    result = run("last", "last", "--proxy", "http://127.0.0.1:1")

    assert result.exit_code == 2
    assert "no proxy is running" in result.output


def test_identities_are_compared_as_the_proxy_knows_them(proxy: str) -> None:
    result = run("--identities", "work", "spare", "--proxy", proxy)

    assert result.exit_code == 1
    assert "~ status\n    A  ready\n    B  needs_replacement" in result.output
    assert run("--identities", "work", "work", "--proxy", proxy).exit_code == 0


@pytest.mark.parametrize("says", ["--config", "no proxy"])
def test_identities_are_compared_from_files_without_a_proxy(tmp_path: Path, says: str) -> None:
    pool = pool_toml(tmp_path, pat("work"), pat("spare"))
    state = {"CODEXPOOL_STATE": str(tmp_path / "state.sqlite3"), "CODEXPOOL_PROXY": "http://127.0.0.1:1"}

    if says == "--config":
        result = run("--identities", "work", "spare", "--config", pool, **state)
    else:
        result = run("--identities", "work", "spare", **state, CODEXPOOL_CONFIG=str(pool))

    assert result.exit_code == 1
    assert "~ fingerprint\n    A  40c025b2aff6\n    B  " in result.output
    assert "kind" not in result.output
    assert "at-test" not in result.output


def test_options_for_requests_are_refused_for_identities() -> None:
    assert run("--identities", "work", "spare", "--full").exit_code == 2


def test_an_unknown_identity_is_an_error(proxy: str) -> None:
    result = run("--identities", "work", "wrok", "--proxy", proxy)

    assert result.exit_code == 2
    assert "there is no identity wrok; there is: work, spare" in result.output


@pytest.mark.parametrize("text", ["nothing.flows", "", "#2", "x.har#1", "LAST"])
def test_what_is_neither_a_file_nor_a_flow_is_refused(text: str) -> None:
    result = run(text, "last")

    assert result.exit_code == 2
    assert "there is no such file" in result.output


def test_id_of_a_flow_is_none_of_a_file() -> None:
    assert named(FLOW) is None
    assert named("last") is None
