"""Finds pool.toml."""

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
    """Return the pool.toml to use, or None if there is none.

    The first of: ``option``, the environment variable, ``config/pool.toml`` beside ``entry`` (mitmproxy's script
    file, if there is one), ``codexpool/pool.toml`` in the user's configuration folder. Raises ConfigError if one
    of the first two names a file that does not exist, rather than use another file.
    """
    for key, value in ((OPTION, option), (VARIABLE, environ.get(VARIABLE))):
        if value:
            return _named(key, value)
    return next((path for path in default_paths(entry) if os.path.isfile(path)), None)  # noqa: PTH113 - never raises


def default_paths(entry: Path | None) -> tuple[Path, ...]:
    """Return the files of which the first that exists is used if none is named."""
    beside = (entry.parent / "config" / "pool.toml",) if entry else ()
    import platformdirs  # Slow to import, and not needed for a named file.

    return (*beside, platformdirs.user_config_path("codexpool", appauthor=False) / "pool.toml")


def places(entry: Path | None) -> tuple[str, ...]:
    """Return all places that `find` looks at, in order, to show to a person."""
    return (f"--set {OPTION}=PATH", VARIABLE, *map(str, default_paths(entry)))


def _named(key: str, value: str) -> Path:
    path = Path(os.path.abspath(os.path.expanduser(value)))  # noqa: PTH100, PTH111 - accepts an unknown "~user"
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        problem = Problem(path, None, key, "there is no such file", f"create it, or correct {key}")
        raise ConfigError([problem]) from None
    except OSError:
        pass  # It exists; reading it reports what is wrong with it.
    return path
