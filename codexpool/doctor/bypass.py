"""Which proxy the client takes, and which entry of ``NO_PROXY`` lets a host slip by.

After hyper-util's ``client/proxy/matcher.rs``, which reqwest (0.12.16 and later) uses. Pure.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from codexpool.doctor.environment import ClientEnvironment

HTTPS: Final = ("HTTPS_PROXY", "https_proxy")
ALL: Final = ("ALL_PROXY", "all_proxy")
NO: Final = ("NO_PROXY", "no_proxy")


def proxy_variable(client: ClientEnvironment) -> tuple[str, str]:
    """The variable that says which proxy is used for https, and its value; two empty strings where none does.

    An empty ``HTTPS_PROXY`` hides ``https_proxy``, and then ``ALL_PROXY`` counts.
    """
    name, value = client.first(*HTTPS)
    if not value.strip():
        name, value = client.first(*ALL)
    return (name, value.strip()) if value.strip() else ("", "")


def bypasses(no_proxy: str, host: str) -> str:
    """The entry that leads requests for ``host`` past the proxy; empty where none does.

    An entry is for its host and all below it, with a leading dot or without; ``*`` for all. Commas part entries, and
    blanks around them do not count; case neither. Addresses and networks are for hosts that are addresses.
    """
    wanted = host.lower()
    for entry in (part.strip() for part in no_proxy.split(",")):
        if entry and not _is_network(entry) and _covers(entry.lower(), wanted):
            return entry
    return ""


def _covers(entry: str, host: str) -> bool:
    entry = entry.removesuffix(":443")  # With the port WebSockets go past the proxy (0.169.0), and HTTP does not.
    return entry == "*" or host == entry.removeprefix(".") or host.endswith(f".{entry.removeprefix('.')}")


def _is_network(entry: str) -> bool:
    try:
        ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
    return True
