"""A pool.toml that is mounted, in a mount namespace: what the kernel says of it, and what becomes of a flag."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.conftest import WritePrivate
from tests.namespaced import needs_namespace
from tests.running import ROOT

TEXT = '[[identity]]\nname = "a"\ntoken = "at-test-a-0123456789abcdef"\n'

FLAG = """
import json, sys
from datetime import UTC, datetime
from pathlib import Path
from codexpool.config.editing import EditError, put_flags
from codexpool.config.model import Flag
from codexpool.config.read import load
from codexpool.tokens.bearer import Bearer
path, (spec,) = Path(sys.argv[1]), load(Path(sys.argv[1])).identities
try:
    put_flags(path, {"a": Flag(datetime.now(UTC), "401", str(Bearer.of(spec.source.token)))})
    said = ["", False]
except EditError as error:
    said = [error.what, error.is_unwritable]
print(json.dumps([load(path).is_read_only, *said]))
"""


def flagged(mount: str, folder: Path) -> list[object]:
    """Mount with these commands, flag the identity, and return whether the file is read-only, and what was said."""
    command = ["unshare", "-m", "sh", "-e", "-c", f'{mount}; exec "$@"', "sh", sys.executable, "-c", FLAG]
    run = subprocess.run(
        [*command, str(folder / "pool.toml")], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr
    said: list[object] = json.loads(run.stdout)
    return said


@needs_namespace
@pytest.mark.parametrize(
    ("mount", "said"),
    [
        (":", [False, "", False]),
        # As compose.yaml and Kubernetes mount it.
        (
            "mount --bind {0} {0}; mount -o remount,bind,ro {0}",
            [True, "cannot be written (Read-only file system)", True],
        ),
        # A file alone: its folder can be written to, and yet it cannot be replaced.
        ("mount --bind {0}/pool.toml {0}/pool.toml", [False, "cannot be written (Device or resource busy)", True]),
    ],
    ids=["not mounted", "a folder", "a file alone"],
)
def test_a_mounted_pool_is_not_for_us_to_write_to(write: WritePrivate, mount: str, said: list[object]) -> None:
    path = write("pool.toml", TEXT)
    assert flagged(mount.format(path.parent), path.parent) == said
