"""Checks pool.toml: whether it exists, is valid, and whether each token can be read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codexpool.config.model import ConfigError, FromEnv, PoolConfig, Problem
from codexpool.config.read import load
from codexpool.config.sources import Resolved
from codexpool.doctor.findings import Finding, note, ok, wrong

ABOUT: Final = "pool"


def missing() -> Finding:
    """Report that there is no pool.toml; a member's machine needs none."""
    text = "no pool.toml on this machine: fine for a member, whose proxy runs elsewhere"
    return note(ABOUT, text, "for a pool of your own: codexpool add NAME, or codexpool login NAME")


def read(path: Path) -> tuple[PoolConfig | None, list[Finding]]:
    """Return the configuration in a file; or None, and what is wrong with it."""
    try:
        return load(path), []
    except ConfigError as error:
        return None, [_finding(problem) for problem in error.problems]


def findings(config: PoolConfig, resolved: Resolved) -> Iterator[Finding]:
    """Check a valid pool.toml."""
    total = len(config.identities)
    if not total:
        yield wrong(ABOUT, f"{config.path} has no identity", "codexpool add NAME, or codexpool login NAME")
        return
    yield ok(ABOUT, f"{config.path} is valid: {total} {'identity' if total == 1 else 'identities'}")
    from_env = {
        f"identity[{number}].token"
        for number, spec in enumerate(config.identities, 1)
        if isinstance(spec.source, FromEnv)
    }
    for problem in resolved.problems:
        found = _finding(problem)
        if problem.key in from_env:  # The proxy's environment may have what this shell's does not.
            found = note(ABOUT, f"{found.text} (in this shell)", found.remedy)
        yield found


def _finding(problem: Problem) -> Finding:
    place = str(problem.file) if problem.line is None else f"{problem.file}:{problem.line}"
    return wrong(ABOUT, ": ".join(part for part in (place, problem.key, problem.what) if part), problem.remedy)
