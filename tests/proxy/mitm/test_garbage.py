"""Only objects that live as long as the process are exempt from garbage collection."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from codexpool.proxy.mitm.garbage import exempt_all_objects, free_exempt_objects


class Ring:
    """Garbage that only the collector can free."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def test_a_full_collection_visits_only_newer_objects() -> None:
    before = len(gc.get_objects())
    exempt_all_objects()
    assert len(gc.get_objects()) < before / 10
    assert gc.get_freeze_count() > before / 2


def test_garbage_is_collected_before_and_after() -> None:
    early = weakref.ref(Ring())
    exempt_all_objects()
    late = weakref.ref(Ring())
    assert early() is None
    gc.collect()
    assert late() is None


def test_what_is_exempt_is_freed_once_the_addon_is_unloaded() -> None:
    ring = Ring()
    history = weakref.ref(ring)
    exempt_all_objects()
    del ring
    gc.collect()
    assert history() is not None
    free_exempt_objects()
    gc.collect()
    assert history() is None
