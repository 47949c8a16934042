# `make` prints the targets. PYTHON=... uses another environment than .venv and sets nothing up.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.NOTPARALLEL:
.DEFAULT_GOAL := help

PYTHON ?= .venv/bin/python
PURE := src/fibackup/model/*,src/fibackup/parse/*,src/fibackup/plan/*

# mypy, pyright, the tests and their children all find the hypervisor of the tests.
export PYTHONPATH := $(CURDIR)/tests
export PYTHONDONTWRITEBYTECODE := 1
export COVERAGE_FILE := $(CURDIR)/.cache/coverage

# The heading of a stage, and its time at the end, whichever end that is.
stage = @printf '\n=== %s\n' '$@'; \
	trap 'code=$$?; [ $$code = 0 ] && word=ok || word=FAILED; printf "=== %s: %s, %d s\n" "$@" "$$word" $$SECONDS' EXIT

ifeq ($(PYTHON),.venv/bin/python)
ready := setup
else
ready :=
endif

.PHONY: help bytecode setup demo playground test check lint types unit property integration exhaustive docs readme package bench clean

help: ## print the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/\1\t\2/' | expand -t 14

setup: ## install what demo and test need: Debian packages, .venv, a Linux guest
	@scripts/setup test

demo: ## show a backup and a restore of a running domain
	@scripts/setup demo
	exec .venv/bin/python examples/demo.py

playground: ## start a libvirt with a guest, to try the commands on; Ctrl-C removes it
	@scripts/setup demo
	exec .venv/bin/python examples/playground.py

# What must not be skipped because something is missing fails instead, with the name of what is missing.
test: export FIBACKUP_REQUIRE := 1
test: $(ready) lint types unit property integration docs readme package ## everything that CI checks

check: test ## the same

lint: $(ready) ## style
	$(stage)
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check
	$(PYTHON) -m codespell_lib

types: $(ready) ## types, with both checkers, and of the public names
	$(stage)
	mkdir -p .cache
	$(PYTHON) -m mypy src tests examples
	$(PYTHON) -m pyright src tests examples
	PATH="$(dir $(abspath $(PYTHON))):$$PATH" $(PYTHON) -m pyright --verifytypes fibackup --ignoreexternal \
		| tee .cache/verifytypes | tail -n 4
	grep -q 'completeness score: 100%' .cache/verifytypes

unit: $(ready) ## unit tests, with the branch coverage of the pure layers
	$(stage)
	mkdir -p .cache
	$(PYTHON) -m coverage run --branch -m pytest tests/unit tests/contract -m 'not libvirt'
	$(PYTHON) -m coverage report
	$(PYTHON) -m coverage report --include='$(PURE)' --fail-under=100

property: $(ready) ## laws, on generated cases
	$(stage)
	$(PYTHON) -m pytest -n 2 tests/property

# Children of tests write no bytecode, which would be among the calls that fail; they find it here.
bytecode: $(ready)
	@$(PYTHON) -m compileall -q src tests

integration: bytecode ## real domains
	$(stage)
	$(PYTHON) -m pytest -n 2 tests/integration tests/contract -m libvirt

exhaustive: bytecode ## each error at each call of a backup and of a restore
	$(stage)
	FIBACKUP_REQUIRE=1 FIBACKUP_EXHAUSTIVE=1 $(PYTHON) -m pytest tests/integration/test_durability.py

docs: bytecode ## the pages; a warning is an error
	$(stage)
	$(PYTHON) -m mkdocs build --strict --quiet
	FIBACKUP_SITE=$(CURDIR)/site $(PYTHON) -m pytest tests/docs

readme: $(ready) ## what README.md shows
	$(stage)
	FIBACKUP_README=1 $(PYTHON) -m pytest tests/docs/test_readme_commands.py

# The wheel is built from the sdist, so the sdist is complete.
package: $(ready) ## build, check, install and use the wheel and the sdist
	$(stage)
	rm -rf dist
	$(PYTHON) -m build --no-isolation --outdir dist >.cache/build.log || { cat .cache/build.log; exit 1; }
	$(PYTHON) -m twine check --strict dist/*
	$(PYTHON) -m check_wheel_contents dist/*.whl
	FIBACKUP_DIST=$(CURDIR)/dist $(PYTHON) -m pytest tests/package

bench: $(ready) ## measure
	$(PYTHON) benchmarks/bench.py
	$(PYTHON) benchmarks/stores.py

clean: ## remove what builds and tests leave; .venv and the guest stay
	rm -rf build dist site htmlcov .coverage .cache/coverage .cache/mypy .cache/pytest .cache/ruff
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
