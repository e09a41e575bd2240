"""The real client, mitmdump in regular mode and the real host names, in a network namespace."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.namespaced import needs_namespace, run_in_namespace
from tests.running import TROUBLE


def is_trouble(line: str) -> bool:
    """Tell whether a line of the client's log is about our answers, and not about its own cache."""
    return any(sign in line for sign in ("ERROR", *TROUBLE)) and "failed to load models cache" not in line


@pytest.mark.real_client
@needs_namespace
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_pat_dies_unseen_with_the_shipped_defaults(tmp_path: Path, transport: str) -> None:
    """It dies between two turns."""
    result = run_in_namespace("tests.client.shipped_defaults", str(tmp_path), transport, seconds=120)

    assert result["exit codes"] == [0, 0]
    assert [answer.rsplit(",", 1)[-1].strip() for answer in result["answers"]] == ["one", "two"]
    assert result["trouble"] == result["refusals"] == []
    assert result["leaks"] == result["tokens written"] == 0
    assert result["refused model calls"] <= 1


@pytest.mark.real_client
@needs_namespace
def test_the_steps_of_the_readme_lead_to_a_pool(tmp_path: Path) -> None:
    result = run_in_namespace("tests.client.readme_steps", str(tmp_path), seconds=240)

    # add, login, check (one token is dead), replace, pause, resume, config check, check, remove
    assert result["codes"] == [0, 0, 1, 0, 0, 0, 0, 0, 0], result["output"]
    assert result["statuses"] == {"work": "ready", "spare": "ready"}
    assert result["after the check"] == "needs_replacement"
    assert result["at last"] == {"work": "ready", "spare": "ready"}
    assert result["exit codes"] == [0, 0]
    assert [answer.rsplit(",", 1)[-1].strip() for answer in result["answers"]] == ["one", "two"]
    assert "answer from fresh," in result["answers"][1]  # the other identity was paused
    assert result["used"]
    assert result["trouble"] == result["refusals"] == result["secrets shown"] == []
    assert (result["leaks"], result["renewals"], result["mode"]) == (0, 0, "0o600")


@pytest.mark.real_client
@needs_namespace
@pytest.mark.skipif(sys.version_info < (3, 12), reason="on Python 3.11 the addon serves loopback only")
def test_the_steps_of_docs_teams_lead_to_an_answer(tmp_path: Path) -> None:
    """A revoked key gets no answer."""
    result = run_in_namespace("tests.client.teams_steps", str(tmp_path), seconds=240)

    announced, found = result["fingerprints"]
    assert found.endswith(f"={announced}")
    assert result["shown"]
    # with an invitation; with `codexpool env` and a doctor that finds nothing; with the old and the new key
    assert [run["code"] for run in result["answers"]] == [0, 0, 0, 0], result["output"]
    words = [run["out"].rsplit(",", 1)[-1].strip() for run in result["answers"]]
    assert words == ["one", "two", "three", "four"]
    assert [line for run in result["answers"] for line in run["err"].splitlines() if is_trouble(line)] == []
    assert [run["code"] for run in result["revoked"]] == [1, 1]
    assert "ERROR: codexpool: this member key of ann is revoked" in result["revoked"][-1]["err"]
    assert max(run["seconds"] for run in result["revoked"]) < 5
    assert result["calls after"] == result["leaks"] == 0
    (usage,) = result["usage"]
    assert (usage["member"], usage["turns"], usage["unmetered"]) == ("ann", 4, 0)
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert result["refusals"] == []
    assert result["keys shown"] == [0, 1]
    assert "turns today     2, without a limit" in result["me"]["out"], result["me"]


@pytest.mark.real_client
@needs_namespace
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("git")), reason="needs curl and git")
def test_tools_of_an_agent_work_as_without_the_proxy(tmp_path: Path) -> None:
    """Codex is served in the same shell."""
    result = run_in_namespace("tests.client.agent_tools", str(tmp_path), seconds=240)

    ran = result["runs"]
    assert {name: one["code"] for name, one in ran.items()} == dict.fromkeys(ran, 0), ran
    assert ran["curl"]["out"] == ran["curl, SOCKS"]["out"] == "from elsewhere|1.1"
    assert ran["curl, HTTP/2"]["out"] == "from elsewhere|2"
    assert ran["git"]["out"] == "first\n"
    assert "answer from work," in ran["codex"]["out"]
    assert result["trouble"] == result["refusals"] == []
    assert result["leaks"] == 0
