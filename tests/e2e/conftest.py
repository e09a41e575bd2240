"""Worlds to test in: one that a module shares, and those that a test makes for itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import version

from tests.e2e.world import World, a_world
from tests.running import pat
from tests.standin import Token

Make = Callable[..., World]

OLD = version.VERSION.startswith("11.")
"""The mitmproxy that Python 3.11 gets: loopback only, and no mitmweb."""


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Makes worlds, each in a folder of its own, that end with the test."""
    with ExitStack() as stack:
        numbers = iter(range(100))

        def world(*tokens: Token, **more: Any) -> World:
            folder = more.pop("folder", None) or tmp_path / f"world-{next(numbers)}"
            folder.mkdir(exist_ok=True)
            return stack.enter_context(a_world(folder, *tokens, **more))

        yield world


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world with two identities for a whole module. `shared` resets it for each test."""
    with a_world(tmp_path_factory.mktemp("shared"), pat("work"), pat("spare")) as world:
        yield world


@pytest.fixture
def shared(shared_world: World) -> World:
    shared_world.reset()
    return shared_world
