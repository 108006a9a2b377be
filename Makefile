# `make help` lists the targets. PYTHON=/path/to/python3 chooses the interpreter of .venv.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
# one after the other: the tests measure times and share two cores
ifndef SIDE_BY_SIDE
.NOTPARALLEL:
endif

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/.venv/collections
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis

RUN := .venv/.ready-run
DEV := .venv/.ready-dev
PYTEST := pytest -q

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# -- use it ------------------------------------------------------------------------------------------------------------

$(RUN): tools/setup.sh requirements/run.txt requirements/collections.txt
	@tools/setup.sh run
	@touch $@

$(DEV): $(RUN) requirements/dev.txt requirements/test.txt
	@tools/setup.sh dev
	@touch $@

.PHONY: setup demo demo-clean
setup: $(RUN) ## build .venv with what the playbooks need
demo: $(RUN) ## split a real Redis with three databases on this machine, and show the proof
	@demo/run.sh
demo-clean: ## take away what the demo made
	@demo/clean.sh

# -- test it -----------------------------------------------------------------------------------------------------------

.PHONY: test checks unit lint integration faults soak units-matrix sanity molecule build bench testbed setup-dev clean
test: checks integration faults molecule ## what .ci/run runs

# side by side, with what the rest waits for: much of it is downloads, and processes that use one core
checks: $(DEV)
	+@$(MAKE) SIDE_BY_SIDE=1 --no-print-directory --jobs 3 --output-sync=target lint unit units-matrix build sanity testbed

setup-dev: $(DEV) ## add the test tools to .venv

testbed: ## Docker, images and test servers on this machine (root or sudo)
	@tests/testbed/up.sh

.PHONY: testbed-clean
testbed-clean: ## take the test bed's images and servers away again
	@tests/testbed/up.sh down

unit: $(DEV) ## unit tests, no server needed
	$(PYTEST) tests/unit

.PHONY: cores
cores: $(DEV)
	@tools/units-matrix.sh --venvs

units-matrix: $(DEV) cores ## unit tests under the oldest and the newest ansible-core
	@tools/units-matrix.sh

lint: $(DEV) ## ansible-lint, yamllint, ruff, mypy, shellcheck, defaults against argument_specs
	@tools/lint.sh

# begun first, so that none of them runs alone at the end; a third process, since they wait a fifth of the time
LONGEST := playbooks containers playbooks_broken_off swarm demo playbooks_live instances monitoring

# (see there: it spares a quarter of the time)
integration faults molecule: export PYTHONPATH := $(CURDIR)/tests/bytecode

integration: $(DEV) testbed cores ## modules and playbooks against real servers
	$(PYTEST) $(LONGEST:%=tests/integration/test_%.py) tests/integration --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 20

faults: $(DEV) testbed ## servers, network and engine fail while a split runs, and nothing may be lost
	$(PYTEST) tests/faults --numprocesses 2

soak: $(DEV) testbed ## the same with new seeds and keys of 100 MB: make soak MINUTES=30
	UNTANGLE_SOAK=$${MINUTES:-10} $(PYTEST) tests/faults --capture=no -k soak

sanity: $(DEV) ## ansible-test sanity
	@tools/ansible-test.sh sanity --venv

molecule: $(DEV) testbed ## the roles on hosts of their own
	@tools/molecule.sh

build: $(DEV) ## build the tarball, install it, look at it as a user does
	@tools/check_build.sh

bench: $(RUN) testbed ## measure the copy; ends with one line of JSON
	@python tests/bench/bench.py

clean: ## remove .venv, caches and build products
	rm -rf .venv .venv-* .cache .ansible dist
