"""Texts of pool.toml as people write them, with any comments, blank lines, spacing, quotes and order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from hypothesis import strategies as st

from codexpool.config.model import Table
from codexpool.config.statements import split

NAMES = st.text("abcXYZ019-_.", min_size=1, max_size=12).filter(lambda name: not name.lower().startswith("at-"))
COMMENT_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=30)
SPACES = st.sampled_from(["", " ", "  ", "\t"])
EQUALS = st.builds(lambda left, right: f"{left}={right}", SPACES, SPACES)
COMMENTS = st.one_of(
    COMMENT_TEXT.map(lambda text: f"# {text}"),
    st.sampled_from(
        ['# name = "other"', "# [[identity]]", "# needs_replacement = {", '# """', "#'''", "# ]} #", "#", "# name]"]
    ),
)
TOKENS = st.text("abcdef0123456789", min_size=4, max_size=20).map("at-test-".__add__)


@dataclass(frozen=True)
class Written:
    """A text and the names of its identities and of its members, in order."""

    text: str
    names: list[str]
    members: list[str] = field(default_factory=list)

    def of(self, table: Table) -> list[str]:
        """The names of one kind of table."""
        return self.names if table is Table.IDENTITY else self.members


def has_headers(text: str) -> bool:
    """Whether the identities are ``[[identity]]`` tables, and not an inline array."""
    return any(statement.table == ("identity", 0) for statement in split(text))


@st.composite
def quoted(draw: st.DrawFn, value: str) -> str:
    escaped = "".join(f"\\u{ord(c):04x}" if draw(st.booleans()) else c for c in value)
    return draw(
        st.sampled_from(
            [f'"{value}"', f"'{value}'", f'"{escaped}"', f'"""{value}"""', f"'''{value}'''", f'"""\n{escaped}"""']
        )
    )


@st.composite
def key(draw: st.DrawFn, name: str) -> str:
    return draw(st.sampled_from([name, name, f'"{name}"', f"'{name}'"]))


@st.composite
def token_lines(draw: st.DrawFn) -> list[str]:
    form = draw(st.sampled_from(["inline", "env", "file", "dotted"]))
    equals = draw(EQUALS)
    if form == "inline":
        return [f"{draw(key('token'))}{equals}{draw(quoted(draw(TOKENS)))}"]
    if form == "dotted":
        return [f"{draw(key('token'))}{draw(SPACES)}.{draw(SPACES)}{draw(key('env'))}{equals}'A_VARIABLE'"]
    inner = {"env": "A_VARIABLE", "file": "a #]}, file"}[form]
    space = draw(SPACES)
    value = draw(st.sampled_from([f'"{inner}"', f"'{inner}'"]))
    return [f"{draw(key('token'))}{equals}{{{space}{draw(key(form))}{draw(EQUALS)}{value}{space}}}"]


@st.composite
def tables(draw: st.DrawFn, name: str) -> list[str]:
    """An ``[[identity]]`` table, its lines."""
    indent = draw(st.sampled_from(["", "", "  ", "\t"]))
    space = draw(SPACES)
    lines = [f"{indent}[[{space}{draw(key('identity'))}{space}]]{draw(endings())}"]
    entries = [f"{draw(key('name'))}{draw(EQUALS)}{draw(quoted(name))}"]
    own_table = draw(st.booleans()) and draw(st.booleans())
    if not own_table:
        entries += draw(token_lines())
    for entry in draw(st.permutations(entries)):
        lines += draw(fillers())
        lines.append(f"{indent}{entry}{draw(endings())}")
    lines += draw(fillers())
    if own_table:
        lines += [f"[identity.token]{draw(endings())}", *draw(fillers()), f"env = 'A_VARIABLE'{draw(endings())}"]
        lines += draw(fillers())
    return lines


@st.composite
def member_tables(draw: st.DrawFn, name: str) -> list[str]:
    """A ``[[member]]`` table, its lines."""
    indent = draw(st.sampled_from(["", "", "  ", "\t"]))
    hashed = hashlib.sha256(name.encode()).hexdigest()
    entries = [
        f"{draw(key('name'))}{draw(EQUALS)}{draw(quoted(name))}",
        f"{draw(key('key'))}{draw(EQUALS)}'sha256:{hashed}'",
        *draw(
            st.sampled_from([[], ['identities = ["a", # ]\n\t"b*"]'], ["turns_at_once = 3", "expires=2027-01-31"]])
        ),
    ]
    lines = [f"{indent}[[{draw(key('member'))}]]{draw(endings())}"]
    for entry in draw(st.permutations(entries)):
        lines += draw(fillers())
        lines.append(f"{indent}{entry}{draw(endings())}")
    return [*lines, *draw(fillers())]


@st.composite
def endings(draw: st.DrawFn) -> str:
    """What may follow a value or header on its line."""
    return draw(SPACES) + draw(st.one_of(st.just(""), COMMENTS))


@st.composite
def fillers(draw: st.DrawFn) -> list[str]:
    return draw(st.lists(st.one_of(st.just(""), SPACES, COMMENTS), max_size=3))


@st.composite
def inline_tables(draw: st.DrawFn, name: str) -> str:
    entries = draw(st.permutations([f"{draw(key('name'))}{draw(EQUALS)}'{name}'", 'token = "at-test-0123"']))
    space = draw(SPACES)
    return f"{{{space}{f'{space},{draw(SPACES)}'.join(entries)}{space}}}"


@st.composite
def pool_texts(draw: st.DrawFn, members: int = 0, inline: bool = True) -> Written:
    """Texts with some identities, perhaps ``inline``, and that many members, some with the names of identities."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    also = draw(st.lists(st.sampled_from(names) | NAMES, min_size=members, max_size=members, unique=True))
    left = list(also)
    lines = draw(fillers())
    if inline and draw(st.booleans()):
        separator = draw(st.sampled_from([", ", ",", ",\n  ", " , # ] }\n"]))
        items = separator.join([draw(inline_tables(name)) for name in names])
        lines += f"identity = [{draw(SPACES)}{items}{draw(st.sampled_from(['', ',', ' # x' + chr(10)]))}]".split("\n")
        lines += draw(fillers())
        pool_lines = ["[pool]", 'selection = "headroom"']
        lines += draw(st.sampled_from([[], pool_lines]))
    else:
        if draw(st.booleans()):
            lines += [draw(st.sampled_from(["[pool]", "[ pool ]"])) + draw(endings()), *draw(fillers())]
            lines += [f"{draw(key('selection'))}{draw(EQUALS)}'round-robin'{draw(endings())}", *draw(fillers())]
        for name in names:
            if draw(st.booleans()) and left:
                lines += draw(member_tables(left.pop(0)))
            lines += draw(tables(name))
    for name in left:
        lines += draw(member_tables(name))
    text = "\n".join(lines) + draw(st.sampled_from(["\n", "\n\n", ""]))
    newline = draw(st.sampled_from(["\n", "\r\n"]))
    return Written(text.replace("\n", newline), names, also)
