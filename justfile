# Recipes for contributors. Everything runs through uv: `uv run just test`.

set positional-arguments

# list the recipes
default:
    @just --list --unsorted

# run mitmdump with this checkout's addon; arguments are mitmproxy's own
run *arguments:
    uv run mitmdump -s addon "$@"

# show what happens when a token dies, against a stand-in for the backend
demo *arguments:
    uv run codexpool demo "$@"

# the tests that tell a broken change: about four minutes on two cores
test *arguments:
    uv run pytest -n auto --dist worksteal -m "not slow" --hypothesis-profile=quick "$@"

# the rest: real Codex CLI, browser, simulations, a short soak; what is not installed is skipped
test-slow *arguments:
    uv run pytest -n auto --dist worksteal -m slow "$@"

# the tests with the real Codex CLI only; CODEXPOOL_CODEX names it, else the PATH
test-client *arguments:
    uv run pytest -m real_client -rs "$@"

# fifty clients, twelve identities and injected faults, for this many seconds
soak seconds="600":
    CODEXPOOL_SOAK_SECONDS={{seconds}} uv run pytest -s tests/soak

# check style and format
lint:
    uv run ruff check .
    uv run ruff format --check .

# check types (mypy, strict)
types:
    uv run mypy

# compare bare mitmdump with mitmdump and the addon, interleaved, as ratios
bench *arguments:
    uv run python -m benchmarks "$@"

# simulate a week of 50 identities and 2000 sessions under each selection strategy
simulate *arguments:
    uv run python -m tests.pool.simulation "$@"

# measure how long turns wait behind a greedy member: first come first served, and round robin
fairness *arguments:
    uv run python -m tests.members.fairness "$@"

# measure one decision with 1000 identities and 10000 sessions, in microseconds
decide *arguments:
    uv run python -m benchmarks.decision "$@"

# build the wheel and the sdist
build:
    uv build
