"""mitmproxy's options: which are refused with a pool, and which hosts `allow_hosts` always has in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mitmproxy import exceptions
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.save import Save
from mitmproxy.test import taddons

from codexpool.protocol.routes import BACKEND_ONLY
from codexpool.proxy.mitm import options as host

UNFIT: list[dict[str, Any]] = [
    {"websocket": False},
    {"validate_inbound_headers": False},
    {"proxy_debug": True},
    {"ignore_hosts": ["chatgpt"]},
    {"ignore_hosts": [r"^example\.com", r":443$"]},
    {"tcp_hosts": [r"^CHATGPT\.com$"]},
]
FIT: list[dict[str, Any]] = [{}, {"ignore_hosts": [r"^example\.com:443$"]}, {"tcp_hosts": ["example"]}]


@pytest.fixture
def context() -> Iterator[taddons.context]:
    with taddons.context(Proxyserver()) as context:
        yield context


@pytest.mark.parametrize("options", UNFIT, ids=str)
def test_unsafe_options_are_refused_with_a_pool(context: taddons.context, options: dict[str, Any]) -> None:
    context.options.update(**options)

    with pytest.raises(exceptions.OptionsError, match=next(iter(options))):
        host.refuse_unfit_for_a_pool(BACKEND_ONLY)


@pytest.mark.parametrize("options", FIT, ids=str)
def test_other_options_are_accepted(context: taddons.context, options: dict[str, Any]) -> None:
    context.options.update(**options)

    host.refuse_unfit_for_a_pool(BACKEND_ONLY)


def test_our_hosts_are_added_to_allow_hosts(context: taddons.context) -> None:
    context.options.update(allow_hosts=[r"^example\.com:"])

    for _ in range(2):
        host.read_too(frozenset({"chatgpt.com", "origin.test"}))

    patterns = context.options.allow_hosts
    assert len(patterns) == 3
    for name in (
        "example.com:443",
        "chatgpt.com:443",
        "gov.chatgpt.com:443",
        "auth.openai.com:443",
        "origin.test:443",
    ):
        assert any(re.search(pattern, name) for pattern in patterns), name
    for name in ("xchatgpt.com:443", "chatgpt.com.evil.test:443", "origin.test.evil.test:443"):
        assert not any(re.search(pattern, name) for pattern in patterns), name


def test_allow_hosts_stays_empty(context: taddons.context) -> None:
    host.read_too(frozenset({"chatgpt.com"}))

    assert context.options.allow_hosts == []


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize(("mode", "is_told"), [(0o644, True), (0o640, True), (0o600, False)])
def test_a_dump_that_others_can_read_is_told(
    context: taddons.context, tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, is_told: bool
) -> None:
    dump = tmp_path / "my flows"
    dump.touch()
    dump.chmod(mode)
    save = Save()
    save.current_path = str(dump)
    context.master.addons.add(save)

    host.warn_of_open_dump()

    assert (f"chmod 600 '{dump}'" in caplog.text) is is_told


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("codexpool_confg=x", "codexpool_confg, which does not exist; did you mean codexpool_config?"),
        ("codexpool_typo=1", "codexpool_typo, which does not exist; there are: codexpool_config"),
        ("another_addons=1", ""),
        ("codexpool_config=x", ""),
    ],
)
def test_an_option_of_ours_that_does_not_exist_is_warned_of(
    context: taddons.context, caplog: pytest.LogCaptureFixture, given: str, said: str
) -> None:
    context.options.add_option("codexpool_config", str, "", "")
    context.options.set(given, defer=True)
    host.warn_of_unknown("codexpool_")
    assert [record.getMessage() for record in caplog.records] == [f"ignored the option {said}"] * bool(said)
