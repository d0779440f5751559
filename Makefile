# Everything a person or CI types. `make` alone lists the targets.
#
# Cargo always builds the whole workspace with all targets in one profile and one folder: another selection of
# packages would unify features differently, and build every dependency again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BUILT := $(or $(CARGO_TARGET_DIR),target)/debug
TOOLCHAIN := test/kcp-e2e/toolchain
DEV := $(BUILT)/openkcm-dev
MFE := luigi-config/mfe
ALL := --workspace --all-targets --locked

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

.PHONY: up
up: build ## Build and start everything on this machine, with a demo workspace; may be repeated
	@$(DEV) up

.PHONY: down
down: ## Stop what `make up` started and forget its data
	@[ ! -x $(DEV) ] || $(DEV) down

.PHONY: status
status: ## What runs
	@$(DEV) status

.PHONY: test
test: check unit e2e console-e2e ## Every check and test, those on a real kcp and in a real browser included

.PHONY: build
build: tools console ## Build the binaries, the console and kcp
	cargo build $(ALL)

.PHONY: tools
tools:
	@$(TOOLCHAIN) apt
	@$(TOOLCHAIN) kcp

.PHONY: generate
generate: ## Write the generated files anew
	cargo run --quiet --package openkcm-apis --bin generate
	apis/kcp-client-rs/generate.sh

.PHONY: check
check: build ## Formatting, lints, generated files up to date, one TLS stack
	cargo fmt --all --check
	cargo clippy $(ALL) -- -D warnings
	$(BUILT)/generate --check
	@if cargo tree --workspace --invert ring --edges normal,build 2>/dev/null | grep .; then echo 'ring is back: see above' >&2; exit 1; fi

.PHONY: unit
unit: build console-unit ## Tests that need no kcp
	

.PHONY: e2e
e2e: build ## Scenarios on a real kcp with the built binaries
	$(DEV) with-servers -- cargo test --workspace --locked --no-fail-fast --test e2e
	$(DEV) with-servers -- cargo test --workspace --locked --no-fail-fast --test reject --test real_kcp -- --ignored

$(MFE)/node_modules/.package-lock.json: $(MFE)/package-lock.json
	cd $(MFE) && npm ci --no-audit --no-fund
	touch $@

.PHONY: console
console: $(MFE)/node_modules/.package-lock.json
	cd $(MFE) && npm run build

.PHONY: console-unit
console-unit: $(MFE)/node_modules/.package-lock.json
	cd $(MFE) && npm test

.PHONY: console-e2e
console-e2e: build
	cd $(MFE) && npm run test:e2e
