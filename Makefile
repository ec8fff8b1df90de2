# Each command first sets up what this machine is missing, and says so.

cargo := . scripts/env.sh && cargo

.PHONY: help run test

help:
	@echo 'make run              build a node and run it on the blobs in examples/blobs'
	@echo 'make run BLOBS=PATH   the same on the blobs in PATH'
	@echo 'make test             check the format, run the linter and all tests'

run:
	@scripts/setup.sh run
	@scripts/run.sh

# The engine and the groups alone come first: they take seconds, and have debug assertions on.
test:
	@scripts/setup.sh test
	$(cargo) fmt --check
	$(cargo) clippy --locked --no-default-features --all-targets -- -D warnings
	$(cargo) test --locked --no-default-features
	$(cargo) clippy --locked --release --all-targets -- -D warnings
	$(cargo) test --locked --release
