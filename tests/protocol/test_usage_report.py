"""What wham/usage says of an account: each field for itself, and nothing that is odd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given

from codexpool.protocol.rate_limits import Gauge
from codexpool.protocol.usage_report import MOST_FAMILIES, FamilyReport, UsageReport, usage_report
from tests.protocol.test_rate_limits import anything

NOW = 1_800_000_000.0


def window(used: Any, seconds: Any = 18_000, **more: Any) -> dict[str, Any]:
    return {"used_percent": used, "limit_window_seconds": seconds, "reset_at": NOW + 60, **more}


def limit(*windows: Any, allowed: Any = True, reached: Any = False) -> dict[str, Any]:
    names = ("primary_window", "secondary_window")
    return {"allowed": allowed, "limit_reached": reached, **dict(zip(names, windows, strict=False))}


def test_the_windows_of_all_families_and_whether_each_may_be_used() -> None:
    document = {
        "plan_type": "pro",
        "rate_limit": limit(window(12), window(34, 604_800)),
        "additional_rate_limits": [
            {
                "limit_name": "GPT-5 Spark",
                "metered_feature": "codex-spark",
                "rate_limit": limit(window(100), allowed=False),
            }
        ],
        "rate_limit_reset_credits": {"available_count": 2},
    }

    assert usage_report(document, NOW) == UsageReport(
        (
            FamilyReport("codex", (Gauge("codex", 300, 12, NOW + 60), Gauge("codex", 10_080, 34, NOW + 60)), True),
            FamilyReport("codex_spark", (Gauge("codex_spark", 300, 100, NOW + 60),), False),
        ),
        "pro",
        2,
    )


@pytest.mark.parametrize(
    ("allowed", "reached", "is_open"),
    [
        (True, False, True),
        (False, True, False),
        (False, False, False),
        (True, True, True),
        (None, True, False),
        (None, False, True),
        (None, None, None),
        ("false", 1, None),
    ],
)
def test_allowed_decides_and_without_it_whether_the_limit_is_reached(
    allowed: Any, reached: Any, is_open: bool | None
) -> None:
    [main] = usage_report({"rate_limit": limit(allowed=allowed, reached=reached)}, NOW).families

    assert main.is_open is is_open


@pytest.mark.parametrize(
    ("credits", "is_open"), [({"has_credits": True}, None), ({"unlimited": True}, None), ({}, False)]
)
def test_a_used_up_account_with_credits_is_not_called_limited(credits: Any, is_open: bool | None) -> None:
    [main] = usage_report({"rate_limit": limit(allowed=False), "credits": credits}, NOW).families

    assert main.is_open is is_open


@pytest.mark.parametrize(
    ("odd", "gauges"),
    [
        (window(float("nan")), ()),
        (window("many"), ()),
        (window(-1), ()),
        (["a"], ()),
        (window(50, None, reset_at=None), (Gauge("codex", 0, 50, None),)),
        (window(50, reset_at=0, reset_after_seconds=90), (Gauge("codex", 300, 50, NOW + 90),)),
        (window(50, float("inf"), reset_at="x"), (Gauge("codex", 0, 50, None),)),
    ],
)
def test_an_odd_field_says_nothing(odd: Any, gauges: tuple[Gauge, ...]) -> None:
    [main] = usage_report({"rate_limit": limit(odd)}, NOW).families

    assert main.gauges == gauges


def test_the_main_limit_is_not_overridden_and_few_families_are_read() -> None:
    main, other = limit(window(1)), limit(window(99))
    families = [{"metered_feature": name, "rate_limit": other} for name in ("codex", *map(str, range(100)))]

    report = usage_report({"rate_limit": main, "additional_rate_limits": families}, NOW)

    assert report.families[0].gauges[0].used_percent == 1
    assert len(report.families) <= 1 + MOST_FAMILIES


@pytest.mark.parametrize("document", [None, [], {}, {"detail": "no"}, "rate_limit"])
def test_a_document_without_limits_is_no_report(document: Any) -> None:
    with pytest.raises(ValueError, match="without any limits"):
        usage_report(document, NOW)


@given(anything, anything, anything, anything)
def test_whatever_comes_gives_a_report(a: Any, b: Any, c: Any, d: Any) -> None:
    document = {"rate_limit": limit(a, window(b), allowed=c), "additional_rate_limits": d, "plan_type": a}
    document["rate_limit_reset_credits"] = {"available_count": b}

    json.dumps(usage_report(document, NOW), allow_nan=False)
