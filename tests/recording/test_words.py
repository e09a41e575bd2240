"""Many words looked for at once: the same is found as word by word."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from codexpool.recording.words import any_of

short = st.text("abc.\\|", min_size=1, max_size=5)


@given(st.lists(short, max_size=12), st.text("abc.\\|x", max_size=60))
def test_the_longest_word_is_found_at_every_place_where_one_begins(words: list[str], text: str) -> None:
    pattern = re.compile(any_of(words))

    for at in range(len(text) + 1):
        there = [word for word in words if text.startswith(word, at)]
        match = pattern.match(text, at)
        assert (match[0] if match else None) == max(there, key=len, default=None)


def test_thousands_of_words_are_no_hindrance() -> None:
    words = [f"word-{number:05d}-{'x' * (number % 40)}" for number in range(5000)]

    pattern = re.compile(any_of(words))

    assert pattern.fullmatch(words[1234])
    assert not pattern.search("word-99999-x" * 1000)
