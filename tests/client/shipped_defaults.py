"""The shipped defaults, inside a network namespace, as root.

`chatgpt.com` and `auth.openai.com` are 127.0.0.1, the stand-in listens on port 443, and mitmdump runs in its regular
mode. Prints one JSON line for `test_shipped_defaults.py`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.namespaced import enter
from tests.running import CLIENT, Codex, Proxy, pat, pool_toml, trouble
from tests.standin import RESPONSES, StandIn


class Regular(Proxy):
    """The proxy in regular mode, with default options."""

    def __init__(self, standin: StandIn, folder: Path) -> None:
        super().__init__(standin, folder, "-w", str(folder / "flows"), "--set", f"hardump={folder / 'dump.har'}")
        for option in ("--mode", "connection_strategy=lazy"):
            at = self._command.index(option)
            del self._command[at - (option != "--mode") : at + 1 + (option == "--mode")]


def main(folder: Path, websockets: bool) -> None:
    enter(folder)
    tokens = pat("work"), pat("spare")
    with StandIn(tokens, clients=[CLIENT], folder=folder, port=443, websockets=websockets) as standin:
        pool_toml(folder, *tokens)
        with Regular(standin, folder) as proxy:
            client = Codex(proxy, folder)
            for token in tokens:
                proxy.says(f"{token.name} is ready")
            first = client.exec("say hi echo:one")
            served = next(token for token in tokens if f"answer from {token.name}," in first.stdout)
            standin.kill(served.token)
            second = client.exec("resume", "--last", "echo:two")
        written = b"".join(
            path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "pool.toml"
        )
        print(
            json.dumps(
                {
                    "answers": [first.stdout, second.stdout],
                    "exit codes": [first.returncode, second.returncode],
                    "trouble": trouble(first) + trouble(second),
                    "refusals": standin.refusals,
                    "leaks": len(standin.leaks),
                    "refused model calls": sum(seen.status == 401 for seen in standin.requests(RESPONSES)),
                    "tokens written": sum(token.token.encode() in written for token in tokens),
                }
            )
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "websocket")
