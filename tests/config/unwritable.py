"""A pool.toml that this process can read, but not write to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def unwritable(code: int) -> Iterator[None]:
    """A file system that takes no new file beside pool.toml. (No permission keeps root out.)"""
    with pytest.MonkeyPatch.context() as patch:
        kept, access = os.open, os.access

        def refuse(path: object, mode: int, *more: object, **named: object) -> int:
            if mode & (os.O_WRONLY | os.O_RDWR) and ".pool.toml." in str(path):
                raise OSError(code, os.strerror(code), str(path))
            return kept(path, mode, *more, **named)  # type: ignore[arg-type]

        patch.setattr(os, "open", refuse)
        patch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and access(path, mode))
        yield
