"""Many strings looked for at once. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from os.path import commonprefix


def any_of(words: Iterable[str]) -> str:
    """A regular expression that matches any of these words, the longest one that fits; nothing if there are none.

    An alternation of a thousand words would be tried word by word at every character of a text: in this one, words
    that begin alike share their beginning.
    """
    wanted = sorted({word for word in words if word})
    return _pattern(wanted) if wanted else r"(?!)"


def _pattern(words: list[str]) -> str:
    """For words in order; an empty one may be among them."""
    begun: dict[str, list[str]] = {}
    for word in words:
        if word:
            begun.setdefault(word[0], []).append(word)
    branches = []
    for alike in begun.values():
        prefix = alike[0] if len(alike) == 1 else commonprefix(alike)  # noqa: RUF071 letter by letter is what is meant
        rest = [word[len(prefix) :] for word in alike]
        branches.append(re.escape(prefix) + (_pattern(rest) if len(rest) > 1 else ""))
    if len(branches) == 1 and words[0]:
        return branches[0]
    joined = f"(?:{'|'.join(branches)})"
    return joined + "?" if not words[0] else joined
