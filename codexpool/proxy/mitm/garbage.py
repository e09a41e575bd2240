"""Exempts objects that live as long as the process from Python's garbage collection.

mitmproxy and this package create some 100,000 objects at the start. A full collection that visits all of them stops
all streams for 50 to 70 ms, and that dominates the p99 of the first byte (docs/performance.md).
"""

from __future__ import annotations

import gc
import importlib
import sys


def exempt_all_objects() -> None:
    """Collect garbage, and exempt the objects that remain.

    Call this once, before there are connections: a connection that is exempt is never freed.
    """
    gc.collect()
    gc.freeze()


def import_exempt(name: str) -> None:
    """Import a large package in a thread, soon after the start, and exempt its objects.

    Collections during the import would take as long as the import. A connection of this very moment is exempt, too.
    """
    if name not in sys.modules:
        gc.disable()
        try:
            importlib.import_module(name)
            gc.freeze()
        finally:
            gc.enable()


def free_exempt_objects() -> None:
    """End all exemptions: the addon is unloaded, and its history must not outlive it."""
    gc.unfreeze()
