"""What codexpool says of the mitmproxy it runs in."""

from __future__ import annotations

import pytest

from codexpool.proxy import versions
from codexpool.proxy.versions import Support, support


def test_a_tested_version_needs_no_notice() -> None:
    assert support("12.2.3") == support("12.3.1") == Support()


@pytest.mark.parametrize("version", ["11.0.2", "10.4.2", "12.1.2"])
def test_a_vulnerable_version_is_for_loopback_only(version: str) -> None:
    known = support(version)

    assert known.loopback_only
    assert "GHSA-847f-9342-265h" in known.notice
    assert "uv python install" in known.notice


@pytest.mark.parametrize("version", ["13.0.0", "13.0.0.dev", "20.1"])
def test_a_newer_version_gets_a_warning(version: str) -> None:
    known = support(version)

    assert not known.loopback_only
    assert "newer than what codexpool is tested with" in known.notice


def test_a_version_that_cannot_send_again_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "MISSING", ["HttpStream.send_response"])

    assert "mitmproxy 14.0 lacks HttpStream.send_response" in support("14.0").refusal
