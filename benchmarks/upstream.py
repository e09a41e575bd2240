"""A lean upstream for the benchmarks: it must cost next to nothing, so unlike the stand-in it checks nothing.

It is a CONNECT proxy that ends the tunnel itself, so that mitmdump's `--mode upstream:` leads here whatever host is
asked for. Run as a process of its own: prints one JSON line, then serves until its standard input is closed.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

from tests.standin.certificates import Authority
from tests.standin.connections import Http1, Socket

EVENT = b"data: " + b"x" * 192 + b"\n\n"
DEAD = "dead"
"""A token with this word in it is refused by everything."""


class Upstream:
    """``/…?events=N&pace=S`` streams N events; a WebSocket sends as many messages as it is asked for."""

    def __init__(self, tls: ssl.SSLContext) -> None:
        self._tls = tls

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await writer.start_tls(self._tls)
            http = Http1(reader, writer)
            while (received := await http.next_request()) is not None:
                _, target, headers = received
                await http.body(headers)
                fields = {name.lower(): value for name, value in headers}
                if "upgrade" in fields:
                    await self._talk(http, target, headers)
                    return
                await self._answer(writer, target, fields.get("authorization", ""))
        except (OSError, EOFError, ValueError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, target: str, authorization: str) -> None:
        path, _, query = target.partition("?")
        name = authorization.removeprefix("Bearer at-test-").partition("-")[0]
        if "events=" in query:
            await self._stream(writer, dict(part.split("=") for part in query.split("&")))
            return
        status, document = 200, b'{"ok":true}'
        if name.startswith(DEAD) and not path.endswith("whoami"):
            status, document = 401, b'{"error":{"code":"token_expired","message":"expired"}}'
        elif path.endswith("whoami"):
            document = json.dumps(whoami(name)).encode()
        elif path.endswith("accounts/check"):
            document = json.dumps(discovery(name)).encode()
        writer.write(
            b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(document))
            + document
        )

    async def _stream(self, writer: asyncio.StreamWriter, query: dict[str, str]) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        chunk = b"%x\r\n%s\r\n" % (len(EVENT), EVENT)
        pace = float(query.get("pace", 0))
        for _ in range(int(query["events"])):
            writer.write(chunk)
            await writer.drain()
            # Events are written one by one: a pause of nothing keeps them from growing together in one packet.
            await asyncio.sleep(pace)
        writer.write(b"0\r\n\r\n")

    async def _talk(self, http: Http1, target: str, headers: list[tuple[str, str]]) -> None:
        socket = Socket(http, target, headers)
        await socket.accept([])
        async for text in socket.messages():
            for number in range(int(text)):
                await socket.send({"type": "response.output_text.delta", "delta": "x" * 150, "n": number})


def whoami(name: str) -> dict[str, Any]:
    return {
        "chatgpt_user_id": f"user-{name}",
        "chatgpt_account_id": f"acc-{name}",
        "chatgpt_plan_type": "business",
        "chatgpt_account_is_fedramp": False,
    }


def discovery(name: str) -> dict[str, Any]:
    routing = {"workspace_backend_origin": "NO_CONSTRAINT", "account_routing_override": "NO_CONSTRAINT"}
    return {"accounts": [{"id": f"acc-{name}", **routing}]}


async def main(folder: Path) -> None:
    authority = Authority(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority.issue(["chatgpt.com", "auth.openai.com"]))
    server = await asyncio.start_server(Upstream(tls).serve, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
    print(json.dumps({"port": server.sockets[0].getsockname()[1], "ca": str(authority.ca_file)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
