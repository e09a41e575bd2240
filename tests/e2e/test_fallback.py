"""On a mitmproxy that lacks a name of those that sending again needs."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from tests.e2e.conftest import Make
from tests.e2e.test_secrets import everybody, recording, traces, wait_for_an_answer
from tests.e2e.world import FAILED_CLOSED, copied_entry, served_by, socket_turn
from tests.running import pat, until
from tests.standin import RESPONSES, Answer


async def test_without_resending_a_death_costs_one_retry_and_no_secret(make: Make, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    entry = copied_entry(there)
    resend = there / "codexpool" / "wire" / "resend.py"
    assert '"check_killed",' in resend.read_text()
    resend.write_text(resend.read_text().replace('"check_killed",', '"check_killed_of_another_version",'))
    folder = tmp_path / "world"
    world = make(pat("work"), pat("spare"), folder=folder, script=entry, arguments=recording(folder)[:4])

    assert "has no HttpStream.check_killed_of_another_version" in world.proxy.log
    assert "answered with a 503, which Codex tries again" in world.proxy.log
    with world.proxy.client() as client:
        dead = served_by(world.turn(client, "s"))
        world.standin.kill(next(token.token for token in world.tokens if token.name == dead))
        first, retry = world.turn(client, "s"), world.turn(client, "s")
        assert (first.status_code, first.json()["error"]["code"]) == (503, FAILED_CLOSED)
        assert served_by(retry) != dead
        async with world.socket("s") as socket:
            assert served_by(await socket_turn(socket)) != dead
    world.proxy.says(f"{dead} needs_replacement")
    world.nothing_amiss()
    world.nothing_of_the_client_left()

    # The end comes while a request waits for its answer.
    world.standin.plan(Answer(path=RESPONSES, delay=20))
    number = len(world.seen)
    threading.Thread(target=wait_for_an_answer, args=(world,), daemon=True).start()
    until(lambda: len(world.seen) == number + 1, 10, "the request")
    world.proxy.stop(signal.SIGTERM)

    assert (folder / "flows").stat().st_size > 1000
    assert traces(folder, everybody(world)) == []
