"""The order in which pool.toml is looked for; a named file is never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from codexpool.config.files import find, places
from codexpool.config.model import ConfigError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_first_place_that_has_one_is_taken(home: Path) -> None:
    entry = home / "checkout" / "addon"
    assert find(None, {}, entry) is None

    of_user = make(Path(places(None)[-1]))
    assert find(None, {}, entry) == of_user
    beside = make(home / "checkout" / "config" / "pool.toml")
    assert find(None, {}, entry) == beside
    assert find(None, {}, None) == of_user
    named = make(home / "named.toml")
    assert find(None, {"CODEXPOOL_CONFIG": str(named)}, entry) == named
    option = make(home / "option.toml")
    assert find(str(option), {"CODEXPOOL_CONFIG": str(named)}, entry) == option


def test_an_empty_option_or_variable_names_nothing(home: Path) -> None:
    assert find("", {"CODEXPOOL_CONFIG": ""}, None) is None


def test_a_named_path_may_be_relative_or_start_at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(home / "home" / "p.toml")
    monkeypatch.chdir(home)
    assert find("~/p.toml", {}, None) == find("home/p.toml", {}, None) == home / "home" / "p.toml"


def test_a_missing_named_file_is_an_error_with_the_setting(home: Path) -> None:
    make(Path(places(None)[-1]))
    for option, environ, key in (
        ("none.toml", {}, "codexpool_config"),
        (None, {"CODEXPOOL_CONFIG": "~nobody-here/none.toml"}, "CODEXPOOL_CONFIG"),
    ):
        with pytest.raises(ConfigError, match=rf"none.toml: {key}: there is no such file; .* correct {key}"):
            find(option, environ, None)


def test_places_are_listed_in_order(home: Path) -> None:
    told = places(home / "addon")
    assert told[:3] == ("--set codexpool_config=PATH", "CODEXPOOL_CONFIG", str(home / "config" / "pool.toml"))
    assert told[3].endswith("pool.toml")
    assert "codexpool" in told[3]
