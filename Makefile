# The commands of tests and demo. `make` alone lists them.
#
# Go and Rust are built one after the other: on two cores they only take each other's memory and turn.

CARGO ?= cargo
CLUSTER = target/cluster/current
.DEFAULT_GOAL := help
# Prerequisites in the order they are written, also under -j: see above.
.NOTPARALLEL:

.PHONY: help
help:
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /make \1\t/' | expand -t 22

.PHONY: prerequisites
prerequisites:
	@tests/prerequisites.sh

.PHONY: cluster
cluster: ## build the real Kubernetes programs for tests and demo (once, 6 minutes)
	@tests/cluster/build.sh

.PHONY: clients
clients: ## install what the tests send mail with from npm and PyPI, below target/
	@mkdir -p target/clients
	@cp tests/clients/package.json tests/clients/package-lock.json target/clients/
	@npm ci --prefix target/clients --ignore-scripts --no-audit --no-fund --loglevel=error
	@python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore --no-deps --require-hashes \
		--only-binary :all: --upgrade --target target/clients/python --requirement tests/clients/requirements.txt

.PHONY: build
build:
	@$(CARGO) build --locked --bins --examples

.PHONY: test
test: prerequisites cluster clients build ## run all tests: unit, property, wire, real API server; installs what they need
	@$(CARGO) test --locked

.PHONY: demo
demo: cluster build ## the main job on real parts; KEEP=1 leaves it running, CLUSTER=current uses your cluster
	@target/debug/examples/demo

.PHONY: bench
bench: cluster ## benchmarks, each figure beside its floor from the same run
	@$(CARGO) bench --locked --bench bench

.PHONY: bench-small
bench-small: cluster ## each benchmark once and small, of a debug build: whether it runs, not how fast anything is
	@$(CARGO) bench --locked --profile dev --bench bench -- small

.PHONY: bench-statuses
bench-statuses: cluster ## how far statuses are behind after COUNT (10000) accounts and keys were made at once
	@$(CARGO) bench --locked --bench bench -- statuses $(COUNT)

.PHONY: fuzz
fuzz: ## fuzz what strangers' bytes reach, SECONDS=600 for each target (needs cargo-fuzz and a nightly toolchain)
	@tests/fuzz/run.sh $(or $(SECONDS),600)

.PHONY: mutants
mutants: ## take the rules of credits and of tenants away one by one: each must be missed by a test
	@tests/mutants.sh

.PHONY: tenants-long
tenants-long: cluster
	@TENANT_MINUTES=$(or $(MINUTES),60) TENANT_SEED=$(or $(SEED),1000) $(CARGO) test --locked --test it tenants::random -- --nocapture
	@TENANT_MINUTES=$(or $(MINUTES),60) TENANT_SEED=$(or $(SEED),1000) TENANT_LEDGER=postgres \
		$(CARGO) test --locked --test it tenants::random -- --nocapture

.PHONY: properties-long
properties-long: cluster
	@PROPTEST_CASES=$(or $(CASES),5000) $(CARGO) test --locked --lib
	@PROPTEST_CASES=$(or $(CASES),5000) $(CARGO) test --locked --test it -- relay::property upstream::bodies

# What is too long for every push. A part that fails does not keep the others from running.
.PHONY: nightly
nightly: prerequisites ## fuzz, an hour of random tenants on each ledger, long properties, mutants, 50,000 objects: a night
	@$(MAKE) --no-print-directory --keep-going fuzz tenants-long properties-long mutants bench-statuses \
		SEED=$$(date +%s) COUNT=25000

.PHONY: generate
generate: ## write the files that are made from the code
	@UPDATE=1 $(CARGO) test --locked --test it generated::

.PHONY: lint
lint: cluster ## format, clippy, chart
	@$(CARGO) fmt --check
	@$(CARGO) clippy --locked --all-targets -- --deny warnings
	@$(CLUSTER)/helm lint --strict charts/franking

.PHONY: image
image: ## write target/franking-image.tar, an OCI image, without docker
	@charts/image/build.sh
