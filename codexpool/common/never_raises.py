"""Who looks on does no harm: what fails in keeping a trace is said in the log, and costs no request its answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

logger = logging.getLogger("codexpool")

P = ParamSpec("P")


def harmless(keep: Callable[P, None]) -> Callable[P, None]:
    """Have a function log what it raises."""

    @wraps(keep)
    def kept(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            keep(*args, **kwargs)
        except Exception:
            logger.exception("what is seen of a request could not be kept")

    return kept
