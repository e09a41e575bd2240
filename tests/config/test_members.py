"""[[member]] tables are read strictly, and no key is ever shown."""

from __future__ import annotations

import calendar
from pathlib import Path

import pytest
from hypothesis import given, settings

from codexpool.config.model import Access, ConfigError, MemberSpec, PoolConfig, PreviousKey
from codexpool.config.read import parse
from codexpool.tokens.member_key import hashed, new_key
from tests.config.texts import Written, pool_texts

POOL = Path("pool.toml")
IDENTITY = '[[identity]]\nname = "work"\ntoken = { env = "WORK" }\n'
KEY, OLD = hashed("at-pool-test-new"), hashed("at-pool-test-old")
ANN = f'[[member]]\nname = "ann"\nkey = "{KEY}"\n'


def with_members(text: str) -> PoolConfig:
    return parse(f"{text}\n{IDENTITY}", POOL)


def lines_said(text: str) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        with_members(text)
    return [str(problem) for problem in refused.value.problems]


def unix(year: int, month: int, day: int, hour: int = 0) -> float:
    return calendar.timegm((year, month, day, hour, 0, 0))


def test_a_whole_member_is_read() -> None:
    config = with_members(f"""\
[pool]
access = "members"
turns_at_once = 40

[[member]]
name = "ann"
key = "{KEY}"
previous = {{ key = "{OLD}", until = 2026-12-02T10:00:00Z }}
expires = 2027-01-31
revoked = 2026-11-25T05:12:00+01:00
identities = ["team-*", "spare"]
turns_at_once = 3
turns_a_day = 500
""")

    assert (config.access, config.turns_at_once) == (Access.MEMBERS, 40)
    ann = MemberSpec(
        name="ann",
        key=KEY,
        line=7,
        previous=PreviousKey(OLD, unix(2026, 12, 2, 10)),
        expires_at=unix(2027, 2, 1),  # good on its last day, too
        revoked_at=unix(2026, 11, 25, 4) + 720,
        identities=("team-*", "spare"),
        turns_at_once=3,
        turns_a_day=500,
    )
    assert config.members == (ann,)
    assert config.member("ann") == ann
    assert config.member("bob") is None


@pytest.mark.parametrize(
    ("said", "reads"), [("", "codex"), ('intercept = "codex"', "codex"), ('intercept = "all"', "all")]
)
def test_intercept_is_codex_unless_all(said: str, reads: str) -> None:
    assert parse(f"[pool]\n{said}\n{IDENTITY}", Path("pool.toml")).intercept == reads


def test_defaults_have_no_members_and_no_limits() -> None:
    config = with_members("")
    assert (config.access, config.members, config.turns_at_once) == (None, (), None)
    [ann] = with_members(ANN).members
    assert ann == MemberSpec("ann", KEY, 3)


def test_a_changed_member_changes_the_configuration() -> None:
    before = with_members(ANN)
    assert with_members(ANN) == before
    assert with_members(ANN + "revoked = 2026-11-25T04:12:00Z\n") != before
    assert with_members(ANN.replace(KEY, OLD)) != before


@pytest.mark.parametrize("revoked", ["2026-11-25", "9999-12-31", "0001-01-01T00:00:00+14:00"])
def test_any_time_of_revocation_revokes(revoked: str) -> None:
    assert with_members(f"{ANN}revoked = {revoked}\n").members[0].revoked_at is not None


def test_a_member_may_have_the_name_of_an_identity() -> None:
    assert with_members(ANN.replace("ann", "work")).member("work")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[pool]\naccess = 'member'", '2: pool.access: is "member"; did you mean "members"?'),
        ("[pool]\naccess = true", "2: pool.access: is a boolean; accepted here: members, anyone"),
        ("[pool]\nintercept = 'al'", '2: pool.intercept: is "al"; did you mean "all"?'),
        ("[pool]\nintercept = true", "2: pool.intercept: is a boolean; accepted here: codex, all"),
        ("[pool]\nturns_at_once = 0", "2: pool.turns_at_once: is 0; write a whole number, 1 or more"),
        ("[member]\nname = 'a'", "1: member: is one table; write [[member]], with two brackets"),
        ("member = 3", "1: member: is an integer; write a [[member]] table for each member"),
        ("member = [\n1]", "2: member[1]: is an integer; write a [[member]] table"),
        (f"[[member]]\nkey = '{KEY}'", 'member[1]: has no name; add name = "…"'),
        ("[[member]]\nname = 1", "2: member[1].name: is an integer; write a string"),
        ("[[member]]\nname = ''", "2: member[1].name: is empty; give the member a name"),
        ("[[member]]\nname = 'a b'", '2: member[1].name: "a b" is not a valid name; use at most'),
        ("[[member]]\nname = 'a'", "1: member[1]: has no key; remove this [[member]] table, and let"),
        ("[[member]]\nkey = 1", '2: member[1].key: is an integer; write "sha256:" and 64 hexadecimal digits'),
        ("[[member]]\nkey = 'sha256:12'", '2: member[1].key: is not "sha256:" and 64 hexadecimal digits; remove'),
        (f"[[member]]\nkey = '{KEY.upper()}'", "2: member[1].key: is not"),
        (f"[[member]]\nkey = '{KEY}0'", "2: member[1].key: is not"),
        ("[[member]]\nname = 'a'\ntoken = 'x'", '3: member[1]: unknown key "token"; accepted here: name, key'),
        ("[[member]]\nexpire = 1", '2: member[1]: unknown key "expire"; did you mean "expires"?'),
        (ANN + "expires = 2026-12-31T00:00:00", "4: member[1].expires: is not a date, nor a time with a zone"),
        (ANN + "expires = 'never'", "4: member[1].expires: is not a date, nor a time with a zone: it is a string"),
        (ANN + "revoked = true", "4: member[1].revoked: is not a date, nor a time with a zone: it is a boolean"),
        (ANN + "previous = 'x'", "4: member[1].previous: is a string; write { key = …, until = … }"),
        (ANN + "previous = { until = 2026-12-31 }", "4: member[1].previous: has no key;"),
        (ANN + f"previous = {{ key = '{OLD}' }}", "4: member[1].previous: has no until"),
        (ANN + f"previous = {{ key = '{OLD}', until = 1 }}", "4: member[1].previous.until: is not a date, nor"),
        (ANN + "previous = { til = 1 }", '4: member[1].previous: unknown key "til"; did you mean "until"?'),
        (ANN + "identities = 'team-*'", '4: member[1].identities: is a string; write ["team-*"], or remove it'),
        (ANN + "identities = []", '4: member[1].identities: is empty; write ["team-*"], or remove it'),
        (ANN + "identities = ['a',\n1]", "5: member[1].identities[2]: is an integer; write the name of an identity"),
        (ANN + "identities = ['']", "4: member[1].identities[1]: is not the name of an identity, or a pattern"),
        (ANN + "turns_at_once = 0", "4: member[1].turns_at_once: is 0; write a whole number, 1 or more"),
        (ANN + "turns_a_day = true", "4: member[1].turns_a_day: is a boolean; write a whole number, 1 or more"),
        (ANN + "turns_a_day = 1.5", "4: member[1].turns_a_day: is a float; write a whole number, 1 or more"),
    ],
)
def test_a_mistake_is_reported_with_line_key_and_remedy(text: str, said: str) -> None:
    assert any(said in line for line in lines_said(text)), lines_said(text)


def test_a_name_given_twice_names_both_lines() -> None:
    assert lines_said(ANN + ANN.replace(KEY, OLD)) == [
        'pool.toml:5: member[2].name: "ann" is also the name of the member in line 2; '
        "give each member a name of its own"
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (ANN + ANN.replace("ann", "bob"), "pool.toml:6: member[2].key: is also the key in line 3"),
        (
            f"{ANN}previous = {{ key = '{KEY}', until = 2026-12-31 }}",
            "pool.toml:4: member[1].previous.key: is also the key in line 3",
        ),
        (
            f"{ANN}previous = {{ key = '{OLD}', until = 2026-12-31 }}\n[[member]]\nname = 'bob'\nkey = '{OLD}'",
            "pool.toml:7: member[2].key: is also the key in line 4",
        ),
    ],
)
def test_a_key_opens_the_pool_for_one_member_only(text: str, said: str) -> None:
    [line] = lines_said(text)
    assert line == f"{said}; give each member a key of its own: codexpool member add NAME"


def test_a_key_itself_in_the_file_is_refused_and_not_shown() -> None:
    key = new_key()
    for place in ("key = {}", "name = {}", "previous = {{ key = {}, until = 2026-12-31 }}", "identities = [{}]"):
        said = "\n".join(lines_said(f"[[member]]\n{place.format(repr(key))}"))
        assert key not in said
    assert "pool.toml:2: member[1].key: is a key, not its hash; never store a key: remove this" in "\n".join(
        lines_said(f"[[member]]\nkey = '{key}'")
    )


@settings(max_examples=40)
@given(pool_texts(members=2))
def test_every_way_of_writing_members_is_read(written: Written) -> None:
    config = parse(written.text, POOL)
    assert [identity.name for identity in config.identities] == written.names
    assert [member.name for member in config.members] == written.members
