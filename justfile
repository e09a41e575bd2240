# Recipes for contributors. Everything runs through uv: `uv run just test`.

set positional-arguments

# list the recipes
default:
    @just --list --unsorted

# run mitmdump with this checkout's addon, passing arguments on
run *arguments:
    uv run mitmdump -s addon "$@"

# show what happens when a token dies, against a fake backend
demo *arguments:
    uv run codexpool demo "$@"

# run the tests that show a broken change (about five minutes on two cores)
test *arguments:
    uv run pytest -n auto --dist worksteal -m "not slow" --hypothesis-profile=quick "$@"

# run the other tests: real Codex CLI, browser, simulations, a short soak; skips what is not installed
test-slow *arguments:
    uv run pytest -n auto --dist worksteal -m slow "$@"

# run the tests with the real Codex CLI (CODEXPOOL_CODEX, otherwise the one on the PATH)
test-client *arguments:
    uv run pytest -m real_client -rs "$@"

# run fifty clients against twelve identities with injected faults, for this many seconds
soak seconds="600":
    CODEXPOOL_SOAK_SECONDS={{seconds}} uv run pytest -s tests/soak

# check style and format
lint:
    uv run ruff check .
    uv run ruff format --check .

# check types (mypy, strict)
types:
    uv run mypy

# build the documentation as a site, in site/; fails on a dead link
docs *arguments:
    NO_MKDOCS_2_WARNING=1 uv run --group docs python -m mkdocs build --strict "$@"

# show the documentation while you write it
docs-serve *arguments:
    NO_MKDOCS_2_WARNING=1 uv run --group docs python -m mkdocs serve "$@"

# compare bare mitmdump, mitmdump with the addon, and codexpool run, interleaved, as ratios
bench *arguments:
    uv run python -m benchmarks "$@"

# simulate a week of 50 identities and 2000 sessions under each selection strategy
simulate *arguments:
    uv run python -m tests.pool.simulation "$@"

# measure how long turns wait if one member is greedy: first come first served, and round robin
fairness *arguments:
    uv run python -m tests.members.fairness "$@"

# measure one decision with 1000 identities and 10000 sessions, in microseconds
decide *arguments:
    uv run python -m benchmarks.decision "$@"

# take the pictures of the page that the docs show (needs Chromium)
pictures:
    uv run python -m tests.web.pictures

# build the wheel and the sdist
build:
    uv build

# make a release from a clean checkout: check, set the version, build, commit, tag; publishes nothing
release version:
    uv run python -m tools.release {{version}}
