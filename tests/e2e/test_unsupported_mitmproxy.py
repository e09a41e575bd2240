"""A mitmproxy without a name that codexpool needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.world import copied_entry


def test_the_addon_refuses_to_load_in_one_line(tmp_path: Path) -> None:
    entry = copied_entry(tmp_path)
    resend = tmp_path / "codexpool" / "proxy" / "resend.py"
    text = resend.read_text()
    assert '"check_killed",' in text
    resend.write_text(text.replace('"check_killed",', '"check_killed_of_another_version",'))

    mitmdump = Path(sys.executable).with_name("mitmdump")
    command: list[str | Path] = [mitmdump, "-s", entry, "--listen-port", "0", "--set", f"confdir={tmp_path}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False)

    said = (run.stdout + run.stderr).splitlines()
    lines = [line for line in said if line and "Loading script" not in line]
    assert run.returncode == 1
    assert len(lines) == 1
    assert "lacks HttpStream.check_killed_of_another_version" in lines[0]
    assert "Install mitmproxy 12.2" in lines[0]
