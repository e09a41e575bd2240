"""Which mitmproxy runs underneath is said, and what is not known is not trusted."""

from __future__ import annotations

import pytest

from codexpool.proxy.mitm import versions
from codexpool.proxy.mitm.versions import support


def test_a_version_that_was_tested_needs_no_word() -> None:
    assert support("12.2.3") == support("12.3.1") == (True, False, None)


@pytest.mark.parametrize("version", ["11.0.2", "10.4.2", "12.1.2"])
def test_a_version_with_known_holes_is_for_loopback_only_and_says_how_to_get_another(version: str) -> None:
    known = support(version)
    assert (known.resends, known.loopback_only) == (True, True)
    assert known.notice is not None
    assert "GHSA-847f-9342-265h" in known.notice
    assert "uv python install" in known.notice


@pytest.mark.parametrize("version", ["13.0.0", "13.0.0.dev", "20.1"])
def test_a_newer_version_is_said_to_be_unknown(version: str) -> None:
    known = support(version)
    assert (known.resends, known.loopback_only) == (True, False)
    assert known.notice is not None
    assert "newer than what codexpool was tested with" in known.notice


def test_a_version_that_lacks_what_sending_again_needs_falls_back_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(versions, "_missing", ["HttpStream.send_response"])
    known = support("14.0")
    assert not known.resends
    assert known.notice is not None
    assert "has no HttpStream.send_response" in known.notice
    assert "map_remote and mitmweb" in known.notice
