"""The real client, mitmdump in its regular mode, the real host names: in a network namespace, where that can be."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.namespaced import needs_namespace, seen_within
from tests.running import TROUBLE


def is_trouble(line: str) -> bool:
    """Tell whether a line of the client's log is about our answers: its own cache, read as it is written, is not."""
    return any(sign in line for sign in ("ERROR", *TROUBLE)) and "failed to load models cache" not in line


@pytest.mark.real_client
@needs_namespace
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_pat_dies_unseen_with_the_shipped_defaults(tmp_path: Path, transport: str) -> None:
    """It dies between two turns."""
    saw = seen_within("tests.client.namespace", str(tmp_path), transport, seconds=120)

    assert saw["exit codes"] == [0, 0]
    assert [answer.rsplit(",", 1)[-1].strip() for answer in saw["answers"]] == ["one", "two"]
    assert saw["trouble"] == saw["refusals"] == []
    assert saw["leaks"] == saw["tokens written"] == 0
    assert saw["refused model calls"] <= 1


@pytest.mark.real_client
@needs_namespace
def test_the_readme_leads_to_a_pool_of_a_pat_and_a_login(tmp_path: Path) -> None:
    saw = seen_within("tests.client.newcomer", str(tmp_path), seconds=240)

    # add, login, check (one is dead by then), replace, pause, resume, config check, check, remove
    assert saw["codes"] == [0, 0, 1, 0, 0, 0, 0, 0, 0], saw["said"]
    assert saw["statuses"] == {"work": "ready", "spare": "ready"}
    assert saw["after the check"] == "needs_replacement"
    assert saw["at last"] == {"work": "ready", "spare": "ready"}
    assert saw["exit codes"] == [0, 0]
    assert [answer.rsplit(",", 1)[-1].strip() for answer in saw["answers"]] == ["one", "two"]
    assert "answer from fresh," in saw["answers"][1]  # the other one was paused
    assert saw["used"]
    assert saw["trouble"] == saw["refusals"] == saw["secrets shown"] == []
    assert (saw["leaks"], saw["renewals"], saw["mode"]) == (0, 0, "0o600")


@pytest.mark.real_client
@needs_namespace
@pytest.mark.skipif(sys.version_info < (3, 12), reason="there the addon serves loopback only")
def test_docs_teams_leads_to_a_first_answer(tmp_path: Path) -> None:
    """Once the key is revoked there is no answer."""
    saw = seen_within("tests.client.teammate", str(tmp_path), seconds=240)

    told, found = saw["fingerprints"]
    assert found.endswith(f"={told}")
    # three variables; `codexpool env` and a doctor who finds nothing; the old key and the new one
    assert [run["code"] for run in saw["answers"]] == [0, 0, 0, 0], saw["said"]
    words = [run["out"].rsplit(",", 1)[-1].strip() for run in saw["answers"]]
    assert words == ["one", "two", "three", "four"]
    assert [line for run in saw["answers"] for line in run["err"].splitlines() if is_trouble(line)] == []
    assert [run["code"] for run in saw["revoked"]] == [1, 1]
    assert "ERROR: codexpool: this member key of ann is revoked" in saw["revoked"][-1]["err"]
    assert max(run["seconds"] for run in saw["revoked"]) < 5
    assert saw["calls after"] == saw["leaks"] == 0
    (usage,) = saw["usage"]
    assert (usage["member"], usage["turns"], usage["unmetered"]) == ("ann", 4, 0)
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert saw["refusals"] == []
    assert saw["keys shown"] == [1, 1]


@pytest.mark.real_client
@needs_namespace
@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("git")), reason="needs curl and git")
def test_what_an_agent_starts_works_as_without_the_proxy(tmp_path: Path) -> None:
    """Codex is served beside it."""
    saw = seen_within("tests.client.passerby", str(tmp_path), seconds=240)

    ran = saw["saw"]
    assert {name: one["code"] for name, one in ran.items()} == dict.fromkeys(ran, 0), ran
    assert ran["curl"]["out"] == ran["curl, SOCKS"]["out"] == "from elsewhere|1.1"
    assert ran["curl, HTTP/2"]["out"] == "from elsewhere|2"
    assert ran["git"]["out"] == "first\n"
    assert "answer from work," in ran["codex"]["out"]
    assert saw["trouble"] == saw["refusals"] == []
    assert saw["leaks"] == 0
