"""Setting and removing a flag changes no other byte of the file."""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.config.editing import flagged, unflagged
from codexpool.config.model import Flag
from codexpool.config.read import parse
from codexpool.config.tables import UneditableError
from tests.config.texts import Written, pool_texts

SINCE = datetime(2026, 11, 20, 14, 2, 11, tzinfo=UTC)
FLAG = Flag(SINCE, "401 token_revoked on codex/responses, confirmed by whoami", "sha256:1a2b3c4d5e6f")
LINE = (
    "needs_replacement = { since = 2026-11-20T14:02:11Z, "
    'reason = "401 token_revoked on codex/responses, confirmed by whoami", token = "sha256:1a2b3c4d5e6f" }'
)
REASONS = st.text(st.characters(codec="utf-8"), max_size=60)
FLAGS = st.builds(
    Flag,
    st.datetimes(timezones=st.just(UTC)).map(lambda since: since.replace(microsecond=0)),
    REASONS,
    st.text("0123456789abcdef", min_size=12, max_size=12).map("sha256:".__add__),
)


@given(pool_texts(inline=False), FLAGS, st.data())
def test_flag_then_unflag_gives_back_the_same_text(written: Written, flag: Flag, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(written.names))
    assert unflagged(flagged(written.text, name, flag), name) == written.text


@given(pool_texts(inline=False), FLAGS, st.data())
def test_a_flag_changes_that_key_and_only_adds_text(written: Written, flag: Flag, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(written.names))

    after = flagged(written.text, name, flag)

    config = parse(after, Path("pool.toml"))
    assert [identity.flag for identity in config.identities if identity.name == name] == [flag]
    document = tomllib.loads(after)
    del document["identity"][written.names.index(name)]["needs_replacement"]
    assert document == tomllib.loads(written.text)
    start = next(i for i, (a, b) in enumerate(zip(written.text + "\0", after, strict=False)) if a != b)
    assert after.endswith(written.text[start:])


@given(pool_texts(inline=False), FLAGS, FLAGS, st.data())
def test_a_second_flag_takes_the_place_of_the_first(
    written: Written, first: Flag, second: Flag, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(written.names))
    assert flagged(flagged(written.text, name, first), name, second) == flagged(written.text, name, second)


@given(pool_texts(inline=False), st.permutations(range(8)), st.data())
def test_flags_can_be_removed_in_any_order(written: Written, order: list[int], data: st.DataObject) -> None:
    text = written.text
    for name in written.names:
        text = flagged(text, name, FLAG)
    for index in (index for index in order if index < len(written.names)):
        text = unflagged(text, written.names[index])
    assert text == written.text


def test_the_flag_is_written_as_the_last_line_of_its_table() -> None:
    text = '[[identity]]\nname = "a"\ntoken = "at-test-1" # mine\n\n# the other one\n[[identity]]\nname = "b"\n'
    assert flagged(text, "a", FLAG) == text.replace("# mine\n", f"# mine\n{LINE}\n")


def test_a_flag_in_a_crlf_file_ends_with_crlf() -> None:
    text = '[[identity]]\r\nname = "a"\r\n\r\n[[identity]]\r\nname = "b"\r\n'
    assert flagged(text, "a", FLAG) == text.replace('"a"\r\n', f'"a"\r\n{LINE}\r\n')


def test_line_end_and_indent_follow_the_line_before() -> None:
    text = '[[identity]]\r\n  name = "a"\r\n  token = "at-test-1"'
    assert flagged(text, "a", FLAG) == f"{text}\r\n  {LINE}"


def test_a_flag_stays_before_the_sub_tables_of_its_identity() -> None:
    text = '[[identity]]\nname = "a"\n\n[identity.token]\nenv = "A"\n'
    assert flagged(text, "a", FLAG) == text.replace('"a"\n', f'"a"\n{LINE}\n')


@pytest.mark.parametrize(
    "by_hand",
    [
        '[[identity]]\nname = "a"\nneeds_replacement.since = 2026-01-01T00:00:00Z\nneeds_replacement.reason = ""\n',
        '[[identity]]\nname = "a"\n[identity.needs_replacement]\nreason = """\nx"""\ntoken = "y"\n',
        '[[identity]]\nneeds_replacement = {}\nname = "a"\n',
    ],
)
def test_a_flag_written_by_hand_is_removed_whole_in_any_form(by_hand: str) -> None:
    assert unflagged(by_hand, "a") == '[[identity]]\nname = "a"\n'
    document = tomllib.loads(flagged(by_hand, "a", FLAG))
    assert document["identity"][0]["needs_replacement"]["token"] == FLAG.token


def test_a_comment_beside_the_flag_outlives_it() -> None:
    text = '[[identity]]\nname = "a"\n'
    commented = flagged(text, "a", FLAG).removesuffix("\n") + "  # ask Kim for a new one\n"
    assert unflagged(commented, "a") == text + "# ask Kim for a new one\n"


def test_a_time_of_another_zone_is_written_in_utc() -> None:
    since = SINCE.astimezone(timezone(timedelta(hours=9)))
    assert "since = 2026-11-20T14:02:11Z" in flagged('[[identity]]\nname="a"', "a", Flag(since, "", FLAG.token))


@pytest.mark.parametrize(
    "text",
    ['[[identity]]\nname = "b"', "", "identity = 3", "identity = [1]", "identity = [{name='b'}]", "[[identity]", "["],
)
def test_a_text_without_that_identity_is_refused(text: str) -> None:
    with pytest.raises(UneditableError):
        flagged(text, "a", FLAG)
