"""What stand-ins look like: of the same shape as what they stand for, and plainly made up. Pure.

A stand-in has nothing in it but fixed words and a number, so that whatever looks like one can be left as it is.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from typing import Final

from codexpool.recording.kinds import Kind

FILL: Final = "0" * 24
"""What makes a stand-in for a token as long as a token."""

_UUID: Final = r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"
UUID: Final = re.compile(_UUID)

EMAIL: Final = re.compile(r"[^\s@<>\"'(),:;\[\]\\/=&?%]{1,64}@(?:[\w-]{1,63}\.){1,9}[^\W\d_][\w-]{1,62}")

PREFIX: Final = re.compile(
    r"at-|rt_|sk-proj-|sk-ant-|sk-svcacct-|sk-|sess-|gh[pousr]_|github_pat_|glpat-|npm_|hf_|xox[a-z]-|ya29\."
)
"""How the tokens begin that say so themselves."""

OWNED: Final = re.compile(
    r"(?:user|org|proj|project|acc|acct|account|ws|team|app|resp|msg|rs|fc|ctc|ig|call|req|conv|thread|turn|item|run"
    r"|chatcmpl|asst|file|etag|models)[-_]"
)
"""How ids begin that say what they are the id of."""

_ADDRESSES: Final = (
    *(ipaddress.ip_network(net) for net in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")),
)
_ADDRESSES_6: Final = ipaddress.ip_network("2001:db8::/32")

SIGNATURE: Final = re.compile(r"c3RhbmRpbi[\w-]{1,16}")
"""The last part of a stand-in for a JWT: ``standin-`` and a number, in base64."""

WORDS: Final = tuple(f"standin-{kind}-" for kind in Kind)

STANDIN: Final = re.compile(
    r"00000000-0000-[0-9a-f]000-8000-0{6}\d{6}"
    rf"|(?:{PREFIX.pattern})standin-\d{{1,9}}-{FILL}"
    rf"|(?:{OWNED.pattern})standin-\d{{1,9}}"
    rf"|(?:{'|'.join(WORDS)})\d{{1,9}}"
    r"|identity-\d{1,9}(?![\w.-]*\w)"
    r"|(?:AKIA|ASIA)STANDIN\d{9}"
    r"|person\d{1,9}@example\.com"
    r"|https://example\.com/standin/\d{1,9}\.git"
    r"|/standin/folder-\d{1,9}"
    r"|192\.0\.2\.\d{1,3}|198\.51\.100\.\d{1,3}|203\.0\.113\.\d{1,3}|198\.1[89]\.\d{1,3}\.\d{1,3}"
    r"|2001:db8::[0-9a-f]{1,4}(?::[0-9a-f]{1,4})?"
    r"|(?<![\w.+-])(?:0{8,}\d{1,4}|9000000\d{5})(?![\w@+-]|\.\w)"
    r"|-----BEGIN PRIVATE KEY-----\s+standin-\d{1,9}\s+-----END PRIVATE KEY-----"
)
"""Every stand-in but those for JWTs (see `codexpool.recording.tokens`) and in base64."""


BEGIN: Final = (
    r"(?:(?<![A-Za-z0-9])|(?<=\\[abfnrtv])|(?<=\\x[0-9a-f]{2})|(?<=\\u[0-9a-f]{4})|(?<=%[0-9A-Fa-f]{2})|(?<=-0{24}))"
)
END: Final = r"(?:(?![A-Za-z0-9])|(?=standin-))"
"""Where a stand-in begins and ends. What has one within it is none: a secret could look like that."""


def is_standin(text: str) -> bool:
    """Whether the whole text is a stand-in."""
    return STANDIN.fullmatch(text) is not None or basic_number(text) is not None


def standin(kind: Kind, value: str, number: int) -> str:
    """The stand-in of that number for such a value."""
    if UUID.fullmatch(value):
        return f"00000000-0000-{value[14].lower()}000-8000-{number:012d}"
    if kind is Kind.CREDENTIAL:
        return _token(value, number)
    if kind is Kind.EMAIL or EMAIL.fullmatch(value):
        return f"person{number}@example.com"
    if (address := _address(value)) is not None:
        return _made_address(address, number)
    if kind is Kind.PLACE:
        return f"https://example.com/standin/{number}.git"
    if kind is Kind.FOLDER:
        return f"/standin/folder-{number}"
    if kind is Kind.IDENTITY:
        return f"identity-{number}"
    if value.isascii() and value.isdigit():
        return f"9{number:011d}"
    if kind is Kind.ID and re.fullmatch(r"[0-9a-f]{12,64}", value):
        return f"{number:0{len(value)}d}"
    if kind in (Kind.ACCOUNT, Kind.USER, Kind.ID, Kind.DEVICE) and (prefix := OWNED.match(value)):
        return f"{prefix[0]}standin-{number}"
    return f"standin-{kind}-{number}"


def series(kind: Kind, value: str) -> str:
    """What stand-ins have in common that are numbered together."""
    if UUID.fullmatch(value):
        return "uuid"
    return str(Kind.ADDRESS) if _address(value) else _numberless(standin(kind, value, 1))


def is_vocabulary(value: str) -> bool:
    """Whether a value is a part of stand-ins, and so found wherever there is one."""
    return _numberless(value) in _VOCABULARY


def _numberless(text: str) -> str:
    return re.sub(r"\d+", "0", text)


def _token(value: str, number: int) -> str:
    if value.startswith("-----BEGIN"):
        return f"-----BEGIN PRIVATE KEY-----\nstandin-{number}\n-----END PRIVATE KEY-----"
    if re.fullmatch(r"(?:AKIA|ASIA)[A-Z0-9]{16}", value):
        return f"{value[:4]}STANDIN{number:09d}"
    prefix = PREFIX.match(value)
    return f"{prefix[0]}standin-{number}-{FILL}" if prefix else f"standin-{Kind.CREDENTIAL}-{number}"


def basic(number: int) -> str:
    """The stand-in for user and password in HTTP's basic scheme."""
    return base64.b64encode(f"standin:standin-{number}".encode()).decode()


def basic_number(text: str) -> int | None:
    """Which one of those a text is."""
    if not text.startswith("c3RhbmRpbjpzdGFuZGlu"):
        return None
    try:
        match = re.fullmatch(rb"standin:standin-(\d{1,9})", base64.b64decode(text, validate=True))
    except ValueError:
        return None
    return int(match[1]) if match else None


def _address(value: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(value)
    except ValueError:
        return None


def is_of_this_machine(value: str) -> bool:
    """Whether an address says nothing: loopback, or none at all."""
    address = _address(value)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _made_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address, number: int) -> str:
    if address.version == 6:
        return str(_ADDRESSES_6[number])
    for net in _ADDRESSES:
        if number < net.num_addresses - 1:
            return str(net[number])
        number -= net.num_addresses - 2
    raise ValueError("there are more addresses than can be told apart")


_VOCABULARY: Final = _numberless(
    " ".join(
        (
            *WORDS,
            *(f"{prefix}standin-1-{FILL}" for prefix in ("at-", "rt_", "sk-", "sess-", "github_pat_")),
            *("00000000-0000-4000-8000-000000000001", "person1@example.com", "identity-1", "AKIASTANDIN000000001"),
            *("https://example.com/standin/1.git", "/standin/folder-1", "192.0.2.1", "198.51.100.1", "2001:db8::1"),
            *("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "user-standin-1", "standin:standin-1"),
        )
    )
)
