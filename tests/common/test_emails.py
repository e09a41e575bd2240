"""Email addresses that come from outside."""

from __future__ import annotations

import pytest

from codexpool.common.emails import email_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ann@example.invalid", "ann@example.invalid"),
        ("änn@exämple.invalid", "änn@exämple.invalid"),
        (None, ""),
        (["ann@example.invalid"], ""),
        ("ann", ""),
        ("ann@example.invalid\x1b[2J", ""),
        ("ann @ example", ""),
        (f"{'a' * 250}@b.invalid", ""),
    ],
)
def test_only_what_can_be_shown_counts_as_an_address(value: object, shown: str) -> None:
    assert email_of(value) == shown
