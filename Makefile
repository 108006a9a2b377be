# `make help` lists the targets. PYTHON=/path/to/python3 chooses the interpreter of .venv.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
export PATH := $(CURDIR)/.venv/bin:$(PATH)

RUN := .venv/.ready-run
DEV := .venv/.ready-dev

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(RUN): tools/setup.sh requirements/run.txt requirements/collections.txt
	@tools/setup.sh run
	@touch $@

$(DEV): $(RUN) requirements/dev.txt
	@tools/setup.sh dev
	@touch $@

.PHONY: setup setup-dev
setup: $(RUN) ## build .venv with what the playbooks need
setup-dev: $(DEV) ## add the test tools to .venv

.PHONY: unit
unit: $(DEV) ## unit tests, no server needed
	pytest -q tests/unit
