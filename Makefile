# One entry to everything. `make` alone lists the targets. Sets up .venv by itself; needs Python 3.11 or newer.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Installed for exactly this pyproject.toml: a later make takes no time, a change of dependencies installs again.
READY := $(VENV)/.ready-$(firstword $(shell cksum pyproject.toml))
# Read by images/build.sh.
export IMAGE PUSH BUILDER BUILD_FLAGS PUSH_FLAGS BASE FLASH_ATTN
comma := ,

# $(call part,TITLE,COMMAND): say what happens, do it, say how long it took.
part = @echo "== $(1)"; $(2); echo "== $(1): $$SECONDS s"; echo

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.PHONY: venv
venv: $(READY) ## Set up .venv with kctl, the trainer and the development tools

# Packages of a killed pip can look installed and be half there: what was begun and not finished is made anew.
$(READY):
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; }
	@if [ -e $(VENV)/.installing ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "== a new $(VENV) with $$($(PYTHON) --version)"; rm -rf $(VENV); $(PYTHON) -m venv $(VENV); fi
	@touch $(VENV)/.installing
	$(call part,packages (about 2 minutes the first time),DS_BUILD_OPS=0 $(BIN)/python -m pip --disable-pip-version-check \
		install --quiet --editable '.[trainer$(comma)dev]')
	@rm -f $(VENV)/.installing $(VENV)/.ready-*
	@touch $@

.PHONY: demo
demo: $(READY) ## Fetch real inputs, train a small adapter on this machine, pull it, compare it with the base model
	$(call part,inputs,$(BIN)/python -m demo.inputs)
	$(call part,training,$(BIN)/kctl submit demo --local --follow)
	$(call part,the adapter comes home,$(BIN)/kctl pull demo --local)
	@$(BIN)/python -m demo.compare

.PHONY: screenshots
screenshots: $(READY) ## README's pictures anew, of real output (3 minutes; doctor's where KUBECONFIG leads to a cluster)
	@$(BIN)/python -m demo.inputs
	@PATH="$(CURDIR)/$(BIN):$$PATH" demo/screenshots.sh

.PHONY: test
test: $(READY) ## Every test that needs no cluster and no GPU, 6 kills among them (10 minutes)
	@FAULTS=few $(BIN)/python -m pytest tests/unit tests/golden tests/cli tests/training tests/faults/test_kills.py

.PHONY: test-faults
test-faults: $(READY) ## What takes too long for `make test`: kills at 20 moments (FAULTS=all: 50), damage, full disks, fuzz (10 minutes)
	@$(BIN)/python -m pytest tests/faults -s

.PHONY: bench
bench: $(READY) ## How fast the trainer is on this machine's GPU, beside others; ROWS="NAME ..." chooses (trainer/bench/README.md)
	@$(BIN)/python -m trainer.bench $(if $(ROWS),--rows $(ROWS))

.PHONY: cluster
cluster: $(READY) ## Start the test cluster (the first time it is built: 10 minutes; needs Debian, root and Go)
	@tests/cluster/up.sh

.PHONY: cluster-down
cluster-down: ## Stop the test cluster and take back what it changed on this machine
	@tests/cluster/down.sh

.PHONY: test-cluster
test-cluster: $(READY) ## Tests on a real Kubernetes with the real operator; KUBECONFIG=...: on yours
	$(call part,the cluster (10 minutes the first time),[ -n "$${KUBECONFIG:-}" ] || tests/cluster/up.sh >/dev/null)
	$(call part,evaluators of Argo CD and Flux (4 minutes the first time),tests/cluster/evaluators/build.sh)
	$(call part,both images (6 minutes the first time),[ -n "$${KUBECONFIG:-}" ] || tests/cluster/image.sh >/dev/null)
	@tests/cluster_tier.sh

.PHONY: check
check: $(READY) ## Lint, format, types, import contracts, lengths
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tests/check_lengths.py

.PHONY: image
image: ## Build both images; with IMAGE=REGISTRY/NAME PUSH=1 push them and print their digests (images/README.md)
	@images/build.sh

.PHONY: clean
clean: ## Remove .venv, local runs and what tools left behind
	rm -rf $(VENV) .kctl .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache build dist
