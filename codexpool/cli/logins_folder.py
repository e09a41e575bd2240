"""Where `codexpool login` keeps logins, each in a folder of its own."""

from __future__ import annotations

from pathlib import Path


def logins_folder() -> Path:
    import platformdirs

    return platformdirs.user_data_path("codexpool", appauthor=False) / "logins"
