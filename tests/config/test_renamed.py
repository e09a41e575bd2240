"""An identity with another name is told from one that was removed and another that was added."""

from __future__ import annotations

from pathlib import Path

import pytest

from codexpool.config.model import PoolConfig, renamed
from codexpool.config.read import parse

OWNER = '\naccount_id = "acc"\nuser_id = "user"'


def pool(**entries: str) -> PoolConfig:
    tables = (f'[[identity]]\nname = "{name}"\n{entry}\n' for name, entry in entries.items())
    return parse("".join(tables), Path("/pool.toml"))


TOKEN, OTHER, RING = 'token = "at-a"', 'token = "at-b"', 'token = { keyring = "codexpool" }'
CASES = {
    "renamed": (pool(a=TOKEN, b=OTHER), pool(b=OTHER, c=TOKEN), {"a": "c"}),
    "renamed and paused": (pool(a=TOKEN), pool(c=f"{TOKEN}\npaused = true"), {"a": "c"}),
    "two renamed": (pool(a=TOKEN, b=OTHER), pool(c=OTHER, d=TOKEN), {"a": "d", "b": "c"}),
    "another token": (pool(a=TOKEN), pool(c=OTHER), {}),
    "another owner": (pool(a=TOKEN), pool(c=TOKEN + OWNER), {}),
    "swapped": (pool(a=TOKEN, b=OTHER), pool(a=OTHER, b=TOKEN), {}),
    "copied": (pool(a=TOKEN), pool(a=TOKEN, c=TOKEN), {}),
    "a name of before": (pool(a=TOKEN, b=OTHER), pool(b=TOKEN), {}),
    "one of two alike": (pool(a=RING, b=RING), pool(a=RING, c=RING), {"b": "c"}),
    "two alike": (pool(a=RING, b=RING), pool(c=RING, d=RING), {}),
    "two alike of two owners": (pool(a=RING + OWNER, b=RING), pool(c=RING, d=RING + OWNER), {"a": "d", "b": "c"}),
}


@pytest.mark.parametrize(("before", "after", "names"), CASES.values(), ids=CASES)
def test_only_a_clear_case_is_another_name(before: PoolConfig, after: PoolConfig, names: dict[str, str]) -> None:
    assert renamed(before, after) == names
