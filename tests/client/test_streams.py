"""The real client with failures inside a stream, and with compressed streams."""

from __future__ import annotations

import pytest

from tests.client.conftest import Make
from tests.running import answered, pat, trouble
from tests.standin import RESPONSES, Answer

pytestmark = pytest.mark.real_client


def test_a_limit_in_mid_answer_costs_one_retry(make: Make, transport: str) -> None:
    """Another identity serves the retry."""
    world = make(pat("work"), pat("spare"), transport=transport)
    kind = "message" if transport == "websocket" else "http/1.1"
    world.standin.plan(
        Answer(
            path=RESPONSES,
            transport=kind,  # type: ignore[arg-type]
            method="" if transport == "websocket" else "POST",
            fail="usage_limit_reached",
            fail_message="You've hit your usage limit.",
            fail_after=1,
        )
    )

    run = world.client.exec("say hi echo:banana")
    again = world.client.exec("resume", "--last", "and now echo:apple")

    # the client may retry by itself or end the turn; in either case another identity serves the next request
    calls = [seen for seen in world.standin.requests(RESPONSES) if seen.transport == kind and seen.status == 200]
    failed, served = calls[0].name, [seen.name for seen in calls[1:]]
    assert served
    assert set(served) == {"work", "spare"} - {failed}
    assert run.returncode == 0, run.stderr
    assert "banana" in run.stdout
    assert answered(again, "apple") == served[-1]
    world.check()


@pytest.mark.parametrize("coding", ["zstd", "br"])
def test_compressed_streams_are_served(make: Make, coding: str) -> None:
    world = make(pat("work"), pat("spare"), transport="http", compress=coding)
    # given a limit in the first events
    world.standin.plan(Answer(path=RESPONSES, method="POST", fail="usage_limit_reached", fail_message="no more"))

    run = world.client.exec("say hi echo:banana")

    posts = [seen for seen in world.standin.requests(RESPONSES) if seen.method == "POST"]
    assert len({seen.name for seen in posts}) == 2
    assert all(seen.header("accept-encoding") is None for seen in posts)
    world.proxy.says(f"{posts[0].name} is limited until")
    # 0.171.0 accepts "zstd,gzip" on its other requests; 0.169.0 decompresses no stream
    is_new = any("zstd" in (seen.header("accept-encoding") or "") for seen in world.standin.seen)
    if is_new and coding in ("zstd", "gzip"):
        assert answered(run, "banana") == posts[-1].name
    else:
        assert trouble(run)  # the client cannot read this stream, but the proxy could
    world.check()


def test_no_compressed_stream_is_requested(make: Make) -> None:
    """A backend that compresses on request sends a plain stream."""
    world = make(pat("work"), transport="http")

    run = world.client.exec("say hi echo:banana")

    assert answered(run, "banana") == "work"
    world.check()
