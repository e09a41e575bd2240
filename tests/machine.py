"""Hides the machine and the person who run the tests: home folder, configuration, variables and keyring."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import site
import tempfile
import time
from typing import Final

KEPT: Final = re.compile(
    r"PATH|LANG|LC_\w+|TERM|TMPDIR|TEMP|TMP|SYSTEMROOT|LD_LIBRARY_PATH|USER|LOGNAME|CI|VIRTUAL_ENV|"
    r"(PYTHON|PYTEST|COV|HYPOTHESIS|UV|PIP)\w*|"
    r"CODEXPOOL_(CODEX|AXE|CHROMIUM|LIVES|KILLS|ROUNDS|OUTAGE|TEST_\w+|SOAK_\w+)"
)
"""Variables that Python, tools and the tests need. None of them configures codexpool or a client."""


def hide() -> None:
    """Remove all other variables from the environment, and give it an empty home folder."""
    libraries = os.environ.get("PYTHONUSERBASE") or site.getuserbase()  # Python finds it by the home folder.
    for name in [name for name in os.environ if not KEPT.fullmatch(name)]:
        del os.environ[name]
    home = tempfile.mkdtemp(prefix="codexpool-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ |= {
        "HOME": home,
        "PYTHONUSERBASE": libraries,
        "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        "TZ": "UTC",  # Times are shown in the zone of the machine.
    }
    time.tzset()
