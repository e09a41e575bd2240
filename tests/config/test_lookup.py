"""The order in which pool.toml is looked for; a named file is never skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from codexpool.config.files import places


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


def find(option: str | None, environ: dict[str, str], entry: Path | None) -> Path | None:
    return places(option, environ, entry).find()


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_the_first_place_that_has_one_is_taken(home: Path) -> None:
    entry = home / "checkout" / "addon"
    assert find(None, {}, entry) is None

    of_user = make(places(None, {}, None).new)
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


def test_no_other_file_is_used_in_place_of_a_named_one_that_is_missing(home: Path) -> None:
    make(places(None, {}, None).new)
    for option, environ, key in (
        (str(home / "none.toml"), {}, "codexpool_config"),
        (None, {"CODEXPOOL_CONFIG": str(home / "none.toml")}, "CODEXPOOL_CONFIG"),
    ):
        looked_at = places(option, environ, None)
        assert looked_at.find() is None
        assert looked_at.new == home / "none.toml"
        assert str(looked_at) == f"{home / 'none.toml'} ({key})"


def test_a_named_file_that_cannot_be_looked_at_is_not_taken_for_missing(home: Path) -> None:
    loop = home / "loop.toml"
    loop.symlink_to(loop)
    assert find(str(loop), {}, None) == loop


def test_what_is_there_but_no_file_is_found_if_there_is_no_file(home: Path) -> None:
    """Such as the folder that Docker makes of a file to mount that is missing: reading it says what is wrong."""
    entry = home / "checkout" / "addon"
    folder = home / "checkout" / "config" / "pool.toml"
    folder.mkdir(parents=True)
    assert find(None, {}, entry) == folder

    of_user = make(places(None, {}, None).new)
    assert find(None, {}, entry) == of_user


def test_places_are_listed_in_order(home: Path) -> None:
    told = str(places(None, {}, home / "addon")).split(", ")
    assert told[:3] == ["--set codexpool_config=PATH", "CODEXPOOL_CONFIG", str(home / "config" / "pool.toml")]
    assert told[3] == str(places(None, {}, None).new)
    assert "codexpool" in told[3]
