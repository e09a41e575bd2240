"""What is looked for in any text, besides what `codexpool.redaction.find` knows. Pure."""

from __future__ import annotations

import re
from typing import Final

from codexpool.recording import shapes

STANDIN: Final = re.compile(
    rf"{shapes.BEGIN}(?:(?P<jwt>eyJ[\w-]+\.[\w-]+\.{shapes.SIGNATURE.pattern}(?![\w-]|\.\w))"
    rf"|(?P<basic>c3RhbmRpbjpzdGFuZGlu[\w+/]+={{0,2}})|(?:{shapes.STANDIN.pattern})){shapes.END}"
    r"|<codexpool:(?P<identity>[^<>\s]{1,64})>"
)
"""A stand-in, or a placeholder."""

DATA: Final = re.compile(r"(?<=;base64,)[A-Za-z0-9+/]{16,}={0,2}")
RUN: Final = re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{11,}={0,2}")
LOWER: Final = re.compile(r"[a-z/_-]*")

NAMED: Final = re.compile(
    r"(?<![\w.-])[\"']?(?P<name>[A-Za-z][A-Za-z0-9]{0,31}[_-][\w-]{1,63}|[a-z]+[A-Z]\w{1,63})[\"']?\s{0,2}[=:]\s{0,2}"
    r"[\"']?(?P<value>[^\s\"'&;,<>{}()\[\]]{1,256})"
)

IDS: Final = re.compile(
    rf"(?<![0-9A-Za-z])(?P<uuid>{shapes.UUID.pattern})(?![0-9A-Za-z])"
    rf"|(?<![0-9A-Za-z])(?P<owned>{shapes.OWNED.pattern}(?=[A-Za-z]*\d)[A-Za-z0-9]{{16,}})"
    r"|(?:sha256:|<email )(?P<digest>[0-9a-f]{12})(?![0-9a-f])"
    r"|(?:(?<![\w.~-])(?:(?:/var|/mnt|/System/Volumes/Data)?/home/|(?:/mnt/[a-z]|/[a-z]|/System/Volumes/Data)?/Users/)"
    r"|(?i:%2fhome%2f|%2fusers%2f))(?P<home>[^\s/\\\"'<>:;,|?*&()\[\]{}`%]{1,64})"
    r"|(?i:(?<![a-z])[a-z]:\\{1,2}users\\{1,2})(?P<windows>[^\\/:*?\"<>|\r\n]{1,64}(?=\\)|[^\\/:*?\"<>|\s]{1,64})"
    r"|(?<=, )(?P<claim>sub|user|account) (?P<claimed>[^,;<>\s]{1,80})"
)

HOMES: Final = ("home", "windows")

HOMELESS: Final = frozenset({"shared", "public", "linuxbrew", "default", "all users"})

DIGEST: Final = re.compile(r"[0-9a-f]{12}")

IPV4: Final = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]*\w)")
