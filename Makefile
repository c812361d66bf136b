# make demo · make test · make bench: each does all its own set-up on a machine with Python >= 3.11 and apt.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help setup demo test lint unit image-test node-test bench docs stubs clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/.done ## install what is missing: bubblewrap by apt, Python packages into .venv

$(VENV)/.done: pyproject.toml locks/constraints.txt setup-host
	@./setup-host $(PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint locks/constraints.txt --editable '.[dev]'
	touch $@

demo: setup ## build the minimal image, boot it, configure it over mutual TLS, leave it running
	@PATH="$(CURDIR)/$(BIN):$$PATH" ./demo

test: setup lint unit image-test node-test ## everything

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: setup ## tests that need no image
	@$(BIN)/pytest tests/unit --timeout 300

image-test: setup ## read the built image without booting it
	@$(BIN)/pytest tests/image

node-test: setup ## boot nodes in QEMU
	@$(BIN)/osbuild image --profile minimal >/dev/null # with a kernel to compile, the limit on a test would end the first one
	$(BIN)/pytest tests/node --timeout 900 --durations 25

bench: setup ## measure, and print each figure beside its goal
	@$(BIN)/python -m benchmarks

docs: setup ## generate the reference pages anew
	@$(BIN)/python -m osbuild.docs
	$(BIN)/python -m basalt.docs

stubs: setup ## generate the API's Python stubs anew
	@$(BIN)/python -m basalt.stubs

clean: ## remove what make made here; the store stays (osbuild cache gc)
	rm -rf build $(VENV) *.egg-info .mypy_cache .ruff_cache .pytest_cache
