"""What is said where there is no pool.toml."""

from __future__ import annotations

from pathlib import Path

from codexpool.config.files import places
from codexpool.doctor import configuration
from codexpool.doctor.findings import Level


def test_a_pool_toml_that_is_named_and_missing_is_told_with_what_names_it() -> None:
    found = configuration.missing(places(None, {"CODEXPOOL_CONFIG": "/etc/codexpool/pool.toml"}, None))
    assert found.level is Level.NOTE
    assert found.text == f"{Path('/etc/codexpool/pool.toml')} (CODEXPOOL_CONFIG) does not exist yet"
    assert "codexpool add NAME" in found.remedy
    assert "fine for a member" in configuration.missing(places(None, {}, None)).text
