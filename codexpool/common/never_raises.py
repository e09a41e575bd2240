"""Functions that only observe must not fail a request: their exceptions are logged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

logger = logging.getLogger("codexpool")

P = ParamSpec("P")


def harmless(keep: Callable[P, None]) -> Callable[P, None]:
    """Make a function log its exceptions instead of raising them."""

    @wraps(keep)
    def kept(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            keep(*args, **kwargs)
        except Exception:
            logger.exception("%s failed; the request goes on", keep.__qualname__)

    return kept
