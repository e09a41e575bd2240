"""A strict stand-in for the backend, on loopback: for the demo, the tests and the benchmarks."""

from codexpool.protocol.endpoints import USAGE
from tests.standin.exchange import Seen, error_body
from tests.standin.faults import CLOUDFLARE_PAGE, Answer
from tests.standin.limits import usage_limit_body
from tests.standin.models import model_info, unsupported
from tests.standin.paths import COMPACT, RESPONSES, WHOAMI
from tests.standin.standin import HOSTS, StandIn
from tests.standin.tokens import CONSUME, DISCOVERY, MODELS, RESET_CREDITS, Token

__all__ = [
    "CLOUDFLARE_PAGE",
    "COMPACT",
    "CONSUME",
    "DISCOVERY",
    "HOSTS",
    "MODELS",
    "RESET_CREDITS",
    "RESPONSES",
    "USAGE",
    "WHOAMI",
    "Answer",
    "Seen",
    "StandIn",
    "Token",
    "error_body",
    "model_info",
    "unsupported",
    "usage_limit_body",
]
