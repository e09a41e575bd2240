"""What mitmproxy itself shows of a flow: the content view and the command, live and saved."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
from mitmproxy import contentviews, http
from mitmproxy import io as flow_io
from mitmproxy.test import taddons, tflow

from codexpool.addon import Codexpool
from codexpool.proxy import content_view
from codexpool.proxy.flows import Serving
from codexpool.proxy.serving import SwapHandler
from codexpool.traces.history import History
from tests.proxy.still_keeper import REFUSAL, StillKeeper, flow


async def sent_again() -> http.HTTPFlow:
    """Refused under work, served under spare."""
    exchanges = SwapHandler(history=History())
    exchanges.flows.mode = Serving(StillKeeper("work", "spare"))
    one = flow(1)
    exchanges.open(one)
    await exchanges.assign(one)
    for status, body in ((401, REFUSAL), (200, b"{}")):
        exchanges.outbound(one)
        one.response = http.Response.make(status, body, {"content-type": "application/json"})
        exchanges.headers_came(one)
        await exchanges.judge(one)
        exchanges.finish(one)
        exchanges.should_resend(one)
    return one


def saved(one: http.HTTPFlow) -> http.HTTPFlow:
    """The flow as it comes back out of a file."""
    file = io.BytesIO()
    flow_io.FlowWriter(file).add(one)
    file.seek(0)
    read = next(iter(flow_io.FlowReader(file).stream()))
    assert isinstance(read, http.HTTPFlow)
    return read


def viewed(one: http.HTTPFlow, name: str = content_view.HeadersView.name) -> str:
    """What this mitmproxy's own code makes of the view, for the request."""
    views: Any = contentviews
    if hasattr(views, "prettify_message"):
        return str(views.prettify_message(one.request, one, name).text)
    _, lines, _ = views.get_message_content_view(name, one.request, one)
    return "\n".join("".join(str(text) for _, text in line) for line in lines)


@pytest.fixture(autouse=True)
def context() -> Iterator[taddons.context]:
    with taddons.context() as context:
        context.options.add_option("protobuf_definitions", str, "", "mitmproxy 12 asks for it")
        content_view.add_view()
        content_view.add_view()  # as after a reload
        yield context


@pytest.mark.parametrize("is_saved", [False, True], ids=["live", "saved"])
async def test_the_view_has_the_story_and_the_header_table(is_saved: bool) -> None:
    one = await sent_again()

    text = viewed(saved(one) if is_saved else one)

    assert "spare served it, attempt 2: 200" in text
    assert "row 7" in text
    assert "~ authorization" in text
    assert "1 work   Bearer PAT 29 chars sha256:" in text
    assert "= user-agent: codex_exec/" in text
    assert "0123456789abcdef" not in text


async def test_the_view_is_never_chosen_automatically() -> None:
    assert "served it" not in viewed(await sent_again(), "auto")


async def test_the_command_returns_the_table_as_rows(context: taddons.context) -> None:
    one = await sent_again()
    context.master.commands.collect_commands(Codexpool(None, reloaded=False))

    rows = context.master.commands.call("codexpool.headers", [one])

    assert len({len(row) for row in rows}) == 1
    assert rows[0] == ["", "header", "client", "1 work", "2 spare"]
    assert rows[1][:2] == ["~", "authorization"]
    assert rows[1][3].startswith("Bearer PAT")
    assert rows[1][4].startswith("Bearer PAT")
    assert rows[1][3] != rows[1][4]


async def test_the_command_names_each_of_several_flows(context: taddons.context) -> None:
    other = tflow.tflow(resp=True)
    context.master.commands.collect_commands(Codexpool(None, reloaded=False))

    rows = context.master.commands.call("codexpool.headers", [await sent_again(), other])

    titles = [row for row in rows if row[2] == "client"]
    assert titles == [
        ["", "POST /backend-api/codex/responses", "client", "1 work", "2 spare"],
        ["", "GET /path", "client", "", ""],
    ]


def test_an_untouched_flow_has_a_view() -> None:
    other = tflow.tflow(resp=True)
    other.request.headers["authorization"] = "Basic dXNlcjphdC10ZXN0LTAxMjM0NTY3ODlhYmNkZWY="
    own = flow(2)
    own.request.path = "/backend-api/wham/settings/user"

    assert "not a host of the backend" in viewed(other)
    assert "dXNlcjphdC10ZXN0" not in viewed(other)
    assert "it acts for a person" in viewed(own)


def test_the_messages_of_an_untouched_socket_are_counted() -> None:
    socket = tflow.twebsocketflow()
    assert socket.websocket is not None
    sizes = [sum(len(m.content) for m in socket.websocket.messages if m.from_client is own) for own in (True, False)]

    assert f"{sizes[0]} B asked, {sizes[1]} B answered" in viewed(socket)


def test_only_http_flows_have_a_view() -> None:
    with pytest.raises(ValueError, match="HTTP flows only"):
        content_view.document_of(tflow.ttcpflow())
