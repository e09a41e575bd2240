"""Is there a pool.toml, does it hold, and can each of its tokens be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from codexpool.config import ConfigError, FromEnv, PoolConfig, Problem, Resolved, load
from codexpool.doctor.findings import Finding, note, ok, wrong

ABOUT: Final = "pool"


def nowhere() -> Finding:
    """There is no pool.toml. On a member's machine there need not be one."""
    return note(
        ABOUT,
        "there is no pool.toml on this machine: right for a member's, whose proxy runs elsewhere",
        "for a pool of your own: codexpool add NAME, or codexpool login NAME",
    )


def read(path: Path) -> tuple[PoolConfig | None, list[Finding]]:
    """The configuration in a file, and what is wrong with it if it is None. Reads the file, raises nothing."""
    try:
        return load(path), []
    except ConfigError as error:
        return None, [_of_problem(problem) for problem in error.problems]


def findings(config: PoolConfig, resolved: Resolved) -> Iterator[Finding]:
    """About a pool.toml that holds."""
    total = len(config.identities)
    if not total:
        yield wrong(ABOUT, f"{config.path} holds, and has no identity", "codexpool add NAME, or codexpool login NAME")
        return
    yield ok(ABOUT, f"{config.path} holds: {total} {'identity' if total == 1 else 'identities'}")
    elsewhere = {
        f"identity[{at}].token" for at, one in enumerate(config.identities, 1) if isinstance(one.source, FromEnv)
    }
    for problem in resolved.problems:
        found = _of_problem(problem)
        if problem.key in elsewhere:  # What the proxy has in its environment this shell need not have.
            found = note(ABOUT, f"{found.text} (as this shell sees it)", found.remedy)
        yield found


def _of_problem(problem: Problem) -> Finding:
    place = str(problem.file) if problem.line is None else f"{problem.file}:{problem.line}"
    return wrong(ABOUT, ": ".join(part for part in (place, problem.key, problem.what) if part), problem.remedy)
