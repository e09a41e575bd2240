"""What lives as long as the process is exempt from garbage collection, and nothing else is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from codexpool.proxy.mitm.garbage import exempt_what_is_there


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_full_collection_looks_only_at_what_was_made_since() -> None:
    before = len(gc.get_objects())
    exempt_what_is_there()
    assert len(gc.get_objects()) < before / 10
    assert gc.get_freeze_count() > before / 2


def test_garbage_is_collected_before_and_after() -> None:
    early = weakref.ref(Ring())
    exempt_what_is_there()
    late = weakref.ref(Ring())
    assert early() is None
    gc.collect()
    assert late() is None


def test_what_a_reload_leaves_is_collected() -> None:
    """An addon that is loaded again is another one: the first one was frozen."""
    addon = Ring()
    known = weakref.ref(addon)
    exempt_what_is_there()
    del addon
    gc.collect()
    assert known() is not None
    exempt_what_is_there()
    assert known() is None
