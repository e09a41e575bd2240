"""Writes the commit of the checkout into what is built from it, for `codexpool --version`."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    @property
    def _file(self) -> Path:
        return Path(self.directory) / ".commit"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        checkout = runpy.run_path(str(Path(self.root) / "codexpool/local/checkout.py"))
        commit = checkout["commit_of"](Path(self.root))
        if commit and version != "editable":
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._file.write_text(f"{commit}\n", encoding="utf-8")
            build_data["force_include"][str(self._file)] = f"codexpool/{checkout['FILE']}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        self._file.unlink(missing_ok=True)
