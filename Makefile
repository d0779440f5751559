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
# Whoever says how far it is counts from here.
export OPENKCM_STARTED := $(or $(OPENKCM_STARTED),$(shell date +%s))
# "/N" behind a step's number where N steps are all there are; nothing elsewhere.
export OPENKCM_STEPS :=
DEV := $(BUILT)/openkcm-dev
MFE := luigi-config/mfe
ALL := --workspace --all-targets --locked

.PHONY: help
help: ## This list
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | column -t -s $$'\t'

.PHONY: up
up: export OPENKCM_STEPS := /11
up: build ## Build and start everything on this machine, with a demo workspace; may be repeated
	@$(DEV) up

.PHONY: down
down: ## Stop what `make up` started and forget its data
	@[ ! -x $(DEV) ] || $(DEV) down

.PHONY: status
status: ## What runs
	@$(DEV) status

.PHONY: build
build: tools console ## Build the binaries, the console and kcp
	@$(TOOLCHAIN) step "4$$OPENKCM_STEPS  the binaries and their tests, with cargo"
	cargo build $(ALL)

.PHONY: tools
tools:
	@$(TOOLCHAIN) step "1$$OPENKCM_STEPS  what this machine must have"
	@$(TOOLCHAIN) check
	@$(TOOLCHAIN) apt
	@$(TOOLCHAIN) step "2$$OPENKCM_STEPS  kcp"
	@$(TOOLCHAIN) kcp

.PHONY: generate
generate: ## Write the generated files anew
	cargo run --quiet --package openkcm-apis --bin openkcm-apiexport
	apis/kcp-client-rs/generate.sh

.PHONY: test
test: check console-unit e2e whole ## Every check and test, those on a real kcp and in a real browser included

.PHONY: check
check: build ## Formatting, lints, generated files up to date, one TLS stack
	cargo fmt --all --check
	cargo clippy $(ALL) -- -D warnings
	$(BUILT)/openkcm-apiexport --check
	apis/kcp-client-rs/generate.sh --check
	@if cargo tree --workspace --locked --target all --invert ring 2>/dev/null | grep .; then echo 'ring is back, see above: one crypto provider only' >&2; exit 1; fi

.PHONY: unit
unit: ## Tests inside the crates: need nothing but cargo
	cargo test --workspace --locked --no-fail-fast --lib --bins

.PHONY: e2e
e2e: build ## Every test of the workspace, on a kcp and key stores that run for as long
	$(DEV) with-servers -- $(MAKE) --no-print-directory cargo-tests
	test/key-stores/vendor-clients "$${XDG_CACHE_HOME:-$$HOME/.cache}/openkcm" $(BUILT)/openkcm-key-store-servers

# What cargo tests: a scenario mostly waits for kcp, so more of them than there are cores. The ignored ones are those that need a kcp to be given to them.
.PHONY: cargo-tests
cargo-tests:
	RUST_TEST_THREADS=4 cargo test --workspace --locked --no-fail-fast
	cargo test --workspace --locked --no-fail-fast --test reject --test real_kcp --test two_shards -- --ignored

# `make up` itself, what the README shows, and the console in a browser. What was up before stays up.
.PHONY: whole
whole: build
	@before=$$(test -e .openkcm/env && echo up || true); result=0; \
	$(DEV) up && cargo test --workspace --locked --test readme -- --ignored && (cd $(MFE) && . ../../.openkcm/env && npm run test:e2e) || result=1; \
	test -n "$$before" || $(DEV) down; exit $$result

$(MFE)/node_modules/.package-lock.json: $(MFE)/package-lock.json
	cd $(MFE) && npm ci --no-audit --no-fund
	touch $@

.PHONY: console
console: console-step $(MFE)/node_modules/.package-lock.json
	cd $(MFE) && npm run build

.PHONY: console-step
console-step:
	@$(TOOLCHAIN) step "3$$OPENKCM_STEPS  the console, with npm"

.PHONY: console-unit
console-unit: $(MFE)/node_modules/.package-lock.json ## The console's own tests
	cd $(MFE) && npm test
