"""Which version is installed, while another one may run."""

from __future__ import annotations

from pathlib import Path

import pytest

import codexpool
from codexpool.local.installed import installed_version


def test_it_is_read_from_the_files_and_not_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert installed_version() == codexpool.__version__
    there = tmp_path / "__init__.py"
    monkeypatch.setattr(codexpool, "__file__", str(there))
    assert installed_version() == codexpool.__version__  # An upgrade is under way.
    there.write_text('"""Doc."""\n\n__version__ = "0.2.0"\n')
    assert installed_version() == "0.2.0"
    there.write_text("nothing of it")
    assert installed_version() == codexpool.__version__
