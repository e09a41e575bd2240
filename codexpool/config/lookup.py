"""Where pool.toml is looked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from codexpool.config.model import ConfigError, Problem

OPTION = "codexpool_config"
"""The mitmproxy option that names a pool.toml."""

VARIABLE = "CODEXPOOL_CONFIG"
"""The environment variable that names one."""


def find(option: str | None, environ: Mapping[str, str], entry: Path | None) -> Path | None:
    """The pool.toml to use, or None if there is none.

    The first of: ``option``, the environment variable, ``config/pool.toml`` beside ``entry`` (mitmproxy's script
    file, if there is one), ``codexpool/pool.toml`` in the user's configuration folder. Raises ConfigError if one
    of the first two names a file that does not exist: another one in its place would be a surprise.
    """
    for key, value in ((OPTION, option), (VARIABLE, environ.get(VARIABLE))):
        if value:
            return _named(key, value)
    return next((path for path in default_paths(entry) if _is_file(path)), None)


def default_paths(entry: Path | None) -> tuple[Path, ...]:
    """The files used where none is named, the first that exists."""
    beside = (entry.parent / "config" / "pool.toml",) if entry else ()
    import platformdirs  # only where nobody has said which file: it takes its time

    return (*beside, platformdirs.user_config_path("codexpool", appauthor=False) / "pool.toml")


def places(entry: Path | None) -> tuple[str, ...]:
    """All places looked at, in order and in words: what to tell a person when ``find`` found nothing."""
    return (f"--set {OPTION}=PATH", VARIABLE, *map(str, default_paths(entry)))


def _named(key: str, value: str) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(value)))  # noqa: PTH100, PTH111 - "~nobody" is then no error
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        remedy = f"create it, or correct {key}"
        raise ConfigError([Problem(path, None, key, "there is no such file", remedy)]) from None
    except OSError:
        pass  # it is there; reading it says what is wrong with it
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False
