# Tasks of the project. `python3 bootstrap.py TASK` runs them in an environment that it prepares first.

set positional-arguments

# Also right when `just` was not started by bootstrap.py.
bin := justfile_directory() / ".venv" / if os_family() == "windows" { "Scripts" } else { "bin" }
export PATH := bin + PATH_VAR_SEP + env("PATH")

# List the tasks
[private]
default:
    @just --list --unsorted

# Show a workflow that survives kills, on a server of its own
demo *args:
    python -m examples.demo "$@"

# Run the tests, three processes on two cores: `just test tests/unit -k retry`
test *args:
    pytest -n auto --dist worksteal "$@"

# Run the tests that need a container engine
containers *args:
    pytest -m containers tests/containers "$@"

# Measure speed: the workloads A to G, or the bench that is named
bench *args:
    python -m tests.bench "$@"

# Measure speed beside other systems, which it installs outside of the repository
bench-peers *args:
    python -m tests.bench.compare "$@"

# Break everything for ten minutes, and prove that nothing was lost: `just chaos --seed 2`
chaos *args:
    python -m tests.chaos --rows 14 "$@"

# Break things in every way that there is, one after the other: more than an hour
chaos-full *args:
    python -m tests.chaos --rows all "$@"

# Run the tests and show which lines they did not reach
coverage *args:
    coverage erase
    coverage run -m pytest "$@"
    coverage combine --quiet
    coverage report

# All that CI asks of a change
verify: lint types imports schemas-check test

# Check style and formatting
lint:
    ruff check
    ruff format --check

# Correct formatting, and style where that is safe
format:
    ruff check --fix
    ruff format

# Check types with both checkers
types:
    mypy
    pyright

# Check the direction of imports
imports:
    lint-imports --no-logo

# Write the wire contract to schemas/
schemas:
    python -m ironflow.cli.main schemas export --output schemas

# Check that schemas/ says what the code says
schemas-check:
    @fresh="$(mktemp -d)" && trap 'rm -rf "$fresh"' EXIT \
        && python -m ironflow.cli.main schemas export --output "$fresh" \
        && diff --recursive --unified schemas "$fresh" \
        || { echo "schemas/ is out of date: run 'just schemas'" >&2; exit 1; }

# Recompile the locks from pyproject.toml; `just lock --upgrade` takes the newest releases
lock *args:
    @{{ compile }} pyproject.toml --group dev --extra archive --extra dev-server --output-file requirements/dev.txt "$@"
    @{{ compile }} pyproject.toml --group build --extra archive --extra otel --extra dev-server --constraint requirements/dev.txt --output-file requirements/runtime.txt "$@"
    @{{ compile }} --group build --constraint requirements/dev.txt --output-file requirements/build.txt "$@"

# For all platforms and Pythons, and without addresses: which index serves the files is the installer's choice.
compile := "uv pip compile --quiet --no-config --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --custom-compile-command 'just lock'"
