"""Keeps what lives as long as the process out of Python's garbage collection.

mitmproxy and this package make some 100,000 objects at the start. Without this every full collection looks at all of
them, and stops all streams for 50 to 70 ms: that was the slowest hundredth of first bytes (docs/performance.md).
"""

from __future__ import annotations

import gc


def exempt_what_is_there() -> None:
    """Collect what is garbage now, and look at what is left no more. Call this again after a reload."""
    gc.unfreeze()  # A reload has made garbage of what was frozen.
    gc.collect()
    gc.freeze()
