"""A strict stand-in for the backend, on loopback: for the demo, the tests and the benchmarks."""

from codexpool.standin.exchange import Seen, error_body
from codexpool.standin.faults import CLOUDFLARE_PAGE, Answer
from codexpool.standin.limits import usage_limit_body
from codexpool.standin.paths import COMPACT, RESPONSES, WHOAMI
from codexpool.standin.standin import HOSTS, StandIn
from codexpool.standin.tokens import DISCOVERY, MODELS, Token

__all__ = [
    "CLOUDFLARE_PAGE",
    "COMPACT",
    "DISCOVERY",
    "HOSTS",
    "MODELS",
    "RESPONSES",
    "WHOAMI",
    "Answer",
    "Seen",
    "StandIn",
    "Token",
    "error_body",
    "usage_limit_body",
]
