"""A strict stand-in for the backend, on loopback: for the demo, the tests and the benchmarks."""

from tests.standin.exchange import Seen, error_body
from tests.standin.faults import CLOUDFLARE_PAGE, Answer
from tests.standin.limits import usage_limit_body
from tests.standin.paths import COMPACT, RESPONSES, WHOAMI
from tests.standin.standin import HOSTS, StandIn
from tests.standin.tokens import DISCOVERY, MODELS, Token

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
