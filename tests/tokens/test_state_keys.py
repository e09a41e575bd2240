"""What the state has of a login can be read with the right key, for the right identity, and in no other way."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codexpool.common.private_files import UnusableError
from codexpool.redaction import redact_text, redact_tokens
from codexpool.tokens.state_keys import FILE_VARIABLE, VARIABLE, Sealed, StateKeys, new_key, state_keys
from tests.config.conftest import WritePrivate, write  # noqa: F401 - a fixture

OWNER = ("acc-spare", "user-spare")
NEW, OLD = new_key(), new_key()


def keys(*texts: str) -> StateKeys:
    return state_keys({VARIABLE: ",".join(texts)})


@given(st.text(), st.tuples(st.text(), st.text()))
def test_what_was_encrypted_can_be_decrypted(text: str, owner: tuple[str, str]) -> None:
    sealed = keys(NEW).seal(text, owner)
    assert keys(NEW).open(sealed, owner) == text


@given(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text()))
def test_a_login_is_of_no_use_in_the_row_of_another_identity(one: tuple[str, str], other: tuple[str, str]) -> None:
    sealed = keys(NEW).seal("secret", one)
    if one != other:
        with pytest.raises(UnusableError, match="damaged, or another identity's"):
            keys(NEW).open(sealed, other)


@given(st.data())
def test_damage_is_noticed_wherever_it_is(data: st.DataObject) -> None:
    key_id, content = keys(NEW).seal("secret", OWNER)
    place = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[place] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(damaged), content[:place]):
        with pytest.raises(UnusableError, match="damaged"):
            keys(NEW).open(Sealed(key_id, wrong), OWNER)


def test_the_first_key_encrypts_and_all_decrypt() -> None:
    before = keys(OLD).seal("secret", OWNER)
    both = keys(NEW, OLD)
    assert both.open(before, OWNER) == "secret"
    after = both.seal("secret", OWNER)
    assert after.key_id == both.first == keys(NEW).first
    assert keys(NEW).open(after, OWNER) == "secret"


def test_a_wrong_key_is_told_by_its_id() -> None:
    sealed = keys(OLD).seal("secret", OWNER)
    with pytest.raises(UnusableError) as error:
        keys(NEW).open(sealed, OWNER)
    assert error.value.what == (
        f"is encrypted with the key sha256:{keys(OLD).first}, and CODEXPOOL_STATE_KEY has sha256:{keys(NEW).first}"
    )
    assert OLD not in str(error.value)
    assert NEW not in error.value.what + error.value.remedy


def test_two_encryptions_of_one_text_have_nothing_in_common() -> None:
    one, other = keys(NEW).seal("secret", OWNER), keys(NEW).seal("secret", OWNER)
    assert one.content[:12] != other.content[:12]
    assert one.content[12:] != other.content[12:]


@pytest.mark.parametrize("environ", [{}, {VARIABLE: ""}, {VARIABLE: " , "}])
def test_without_a_key_nothing_is_encrypted_or_decrypted(environ: dict[str, str]) -> None:
    none = state_keys(environ)
    with pytest.raises(UnusableError, match="CODEXPOOL_STATE_KEY is not set") as sealing:
        none.seal("x", OWNER)
    with pytest.raises(UnusableError, match="CODEXPOOL_STATE_KEY is not set") as opening:
        none.open(Sealed("", b""), OWNER)
    makes_one = "codexpool state key makes one"
    assert [makes_one in error.value.remedy for error in (sealing, opening)] == [
        True,
        False,
    ]  # Another one is no help.


def test_keys_may_be_in_a_file_one_a_line(write: WritePrivate) -> None:  # noqa: F811
    path = write("key", f"{NEW}\n{OLD}\n")
    found = state_keys({FILE_VARIABLE: str(path)})
    assert list(found.keys) == list(keys(NEW, OLD).keys)


def test_a_key_file_must_be_private(write: WritePrivate) -> None:  # noqa: F811
    path = write("key", NEW)
    path.chmod(0o644)
    with pytest.raises(UnusableError, match="is open to other users"):
        state_keys({FILE_VARIABLE: str(path)})


def test_a_missing_or_empty_file_is_told(tmp_path: Path, write: WritePrivate) -> None:  # noqa: F811
    with pytest.raises(UnusableError, match=r"CODEXPOOL_STATE_KEY_FILE \(.*\): there is no such file"):
        state_keys({FILE_VARIABLE: str(tmp_path / "none")})
    with pytest.raises(UnusableError, match="is empty"):
        state_keys({FILE_VARIABLE: str(write("key", "\n"))})


def test_the_variable_and_a_file_cannot_both_be_set() -> None:
    with pytest.raises(UnusableError, match="are both set"):
        state_keys({VARIABLE: NEW, FILE_VARIABLE: "/dev/null"})


@pytest.mark.parametrize(
    "wrong",
    [NEW[:-1], NEW + "A", NEW[13:], "codexpool-sk-", NEW[:-3] + "é=="],
    ids=["a character short", "a character too long", "without its beginning", "its beginning", "no base64"],
)
def test_half_a_key_is_refused_and_not_shown(wrong: str) -> None:
    with pytest.raises(UnusableError) as error:
        keys(NEW, wrong)
    assert error.value.what == "CODEXPOOL_STATE_KEY: key 2 is not a complete key of the state"
    assert wrong not in error.value.remedy


def test_a_key_is_recognized_as_a_secret() -> None:
    for redact in (redact_text, redact_tokens):
        assert NEW[-43:] not in redact(f"set {NEW} here")
    assert NEW not in repr(keys(NEW))
