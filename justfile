# The recipes of a contributor. Everything runs through uv: `uv run just test`.

set positional-arguments

# what there is
default:
    @just --list --unsorted

# mitmdump with the addon of this checkout; arguments are mitmproxy's own
run *arguments:
    uv run mitmdump -s addon "$@"

# what happens when a token dies, on a stand-in for the backend
demo *arguments:
    uv run codexpool demo "$@"

# all tests that need nothing but this checkout; those with the real client run where it is found
test *arguments:
    uv run pytest -n auto --dist worksteal "$@"

# the tests with the real Codex CLI only: put `codex` on the PATH, or its path into CODEXPOOL_CODEX
test-client *arguments:
    uv run pytest -m real_client -rs "$@"

# fifty clients, twelve identities, and everything that can go wrong, for so many seconds
soak seconds="600":
    CODEXPOOL_SOAK_SECONDS={{seconds}} uv run pytest -s tests/soak

# style and format
lint:
    uv run ruff check .
    uv run ruff format --check .

# strict types
types:
    uv run mypy

# bare mitmdump against mitmdump with the addon, interleaved, as ratios
bench *arguments:
    uv run python -m benchmarks "$@"

# a simulated week of 50 identities and 2000 sessions, under each way to spread them
simulate *arguments:
    uv run python -m benchmarks.simulation "$@"

# how long turns wait for a greedy member, first come first served and in turn
fairness *arguments:
    uv run python -m benchmarks.fairness "$@"

# what one decision costs with 1000 identities and 10000 sessions, in microseconds
decide *arguments:
    uv run python -m benchmarks.decision "$@"

# wheel and sdist
build:
    uv build
