"""Tables and keys are added and removed; the rest of the text stays."""

from __future__ import annotations

import re
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codexpool.config.model import Table
from codexpool.config.tables import UneditableError, Value, with_key, with_table, without_key, without_table
from tests.config.texts import Written, has_headers, pool_texts

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | TEXTS,
    lambda inner: st.lists(TEXTS, max_size=3) | st.dictionaries(st.text("abc_", min_size=1), inner, max_size=3),
    max_leaves=5,
)


@given(pool_texts(members=1, inline=False), VALUES, st.sampled_from(Table), st.data())
def test_a_key_set_and_taken_out_again_leaves_the_same_text(
    written: Written, value: Value, of: Table, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(written.of(of)))
    index = written.of(of).index(name)

    text = with_key(written.text, name, "revoked", value, of)

    assert tomllib.loads(text)[of][index]["revoked"] == value
    assert without_key(text, name, "revoked", of) == written.text


@given(pool_texts(), VALUES, st.data())
def test_a_key_is_set_and_removed_in_any_array(written: Written, value: Value, data: st.DataObject) -> None:
    """In an inline array, too: there only spaces within the table may change."""
    name = data.draw(st.sampled_from(written.names))
    before = tomllib.loads(written.text)

    text = with_key(written.text, name, "revoked", value)
    after = without_key(text, name, "revoked")

    assert tomllib.loads(text)["identity"][written.names.index(name)]["revoked"] == value
    assert tomllib.loads(after) == before
    assert re.sub(r"\s", "", after) == re.sub(r"\s", "", written.text)


@settings(max_examples=40)
@given(pool_texts(members=2), st.data())
def test_replacing_a_key_changes_no_other_byte(written: Written, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(written.members))
    old = tomllib.loads(written.text)["member"][written.members.index(name)]["key"]

    text = with_key(written.text, name, "key", "sha256:new", Table.MEMBER)

    assert text == written.text.replace(f"'{old}'", '"sha256:new"')


@given(pool_texts(inline=False), st.data())
def test_any_form_of_token_is_replaced(written: Written, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(written.names))
    before = tomllib.loads(written.text)

    after = tomllib.loads(with_key(written.text, name, "token", {"file": "~/x"}))

    for table in before["identity"]:
        if table["name"] == name:
            table["token"] = {"file": "~/x"}
    assert after == before


@settings(max_examples=40)
@given(pool_texts(members=1), st.sampled_from(["sha256:x", "a\nb"]))
def test_a_member_is_added_at_the_end_whatever_is_before_it(written: Written, key: str) -> None:
    text = with_table(written.text, {"name": "new-one", "key": key}, Table.MEMBER)

    assert text.startswith(written.text)
    assert tomllib.loads(text)["member"][-1] == {"name": "new-one", "key": key}
    assert tomllib.loads(text)["identity"] == tomllib.loads(written.text)["identity"]


@given(pool_texts())
def test_an_identity_is_added_at_the_end_and_removed_again(written: Written) -> None:
    try:
        text = with_table(written.text, {"name": "new-one", "token": "at-test-x"}, Table.IDENTITY)
    except UneditableError:  # an inline array has to be edited by hand
        assert not has_headers(written.text)
        return

    assert text.startswith(written.text)
    assert tomllib.loads(text)["identity"][-1] == {"name": "new-one", "token": "at-test-x"}
    without = without_table(text, "new-one")
    assert without.strip() == written.text.strip()


@given(pool_texts(), st.data())
def test_removing_an_identity_keeps_others_and_comments(written: Written, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(written.names))
    before = tomllib.loads(written.text)
    try:
        text = without_table(written.text, name)
    except UneditableError:
        assert not has_headers(written.text)
        return
    after = tomllib.loads(text)
    assert after.get("identity", []) == [table for table in before["identity"] if table["name"] != name]
    whole_line = [line.strip() for line in written.text.splitlines() if line.lstrip().startswith("#")]
    assert all(line in text for line in whole_line if '"""' not in written.text and "'''" not in written.text)


def test_an_identity_with_sub_tables_goes_whole() -> None:
    text = (
        '# first\n[[identity]]\nname = "a"\n[identity.token]\nenv = "A"  # mine\n[identity.needs_replacement]\n'
        'since = 2026-01-01T00:00:00Z\n\n# second\n[[identity]]\nname = "b"\ntoken = "x"\n'
    )
    assert without_table(text, "a") == '# first\n# mine\n\n# second\n[[identity]]\nname = "b"\ntoken = "x"\n'


@pytest.mark.parametrize("text", ['identity = [{ name = "a", token = "x" }, { name = "b", token = "y" }]\n'])
def test_what_cannot_be_edited_safely_is_left_to_a_person(text: str) -> None:
    with pytest.raises(UneditableError, match="inline array"):
        without_table(text, "a")
    paused = with_key(text, "a", "paused", True)
    assert paused == text.replace('"x" }', '"x", paused = true}')
    with pytest.raises(UneditableError, match="inline array"):
        with_table(text, {"name": "c"}, Table.IDENTITY)


def test_line_ends_are_those_of_the_file() -> None:
    text = '[[identity]]\r\nname = "a"\r\ntoken = "x"\r\n'
    assert with_table(text, {"name": "b"}, Table.IDENTITY) == f'{text}\r\n[[identity]]\r\nname = "b"\r\n'


def test_the_first_member_follows_the_identities() -> None:
    text = '[[identity]]\nname = "a"\ntoken = "x" # mine'
    added = with_table(text, {"name": "ann", "key": "sha256:0", "turns_a_day": 5}, Table.MEMBER)
    assert added == f'{text}\n\n[[member]]\nname        = "ann"\nkey         = "sha256:0"\nturns_a_day = 5\n'


def test_a_member_and_an_identity_of_one_name_are_told_apart() -> None:
    text = '[[identity]]\nname = "a"\n[[member]]\nname = "a"\n'
    assert with_key(text, "a", "turns_a_day", 5, Table.MEMBER) == f"{text}turns_a_day = 5\n"
    with pytest.raises(UneditableError, match=r'there is no member "b"'):
        with_key(text, "b", "turns_a_day", 5, Table.MEMBER)
