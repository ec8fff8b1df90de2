# Each command first sets up what this machine is missing, and says so.

cargo := . scripts/env.sh && cargo

.PHONY: asan help model run test

help:
	@echo 'make run              build a node and run it on the blobs in examples/blobs'
	@echo 'make run BLOBS=PATH   the same on the blobs in PATH'
	@echo 'make test             check the format, run the linter and all tests'
	@echo 'make asan             run the tests of engine and groups under AddressSanitizer'
	@echo 'make model            run the engine on a model checker; MODEL_RUNS=100000 for longer'

run:
	@scripts/setup.sh run
	@scripts/run.sh

# The engine, the groups and the protocol alone come first: they take seconds, and have debug assertions on.
test:
	@scripts/setup.sh test
	$(cargo) fmt --check
	$(cargo) clippy --locked --no-default-features --all-targets -- -D warnings
	$(cargo) test --locked --no-default-features --features express
	$(cargo) clippy --locked --release --all-targets -- -D warnings
	$(cargo) test --locked --release
	@$(MAKE) --no-print-directory model

# Each entry is an allocation of its own, so that the sanitizer sees it.
asan: export RUSTC_BOOTSTRAP = 1
asan: export RUSTFLAGS = -Zsanitizer=address --cfg corecache_malloc
asan:
	@scripts/setup.sh test
	$(cargo) test --locked --no-default-features --target x86_64-unknown-linux-gnu --lib --tests

# The flag changes how everything is compiled, so it has a directory of its own.
model: export RUSTFLAGS += --cfg corecache_model
model: export CARGO_PROFILE_DEV_OPT_LEVEL = 1
model: model_dir = $(or $(CARGO_TARGET_DIR),target)/model
model:
	@scripts/setup.sh test
	$(cargo) clippy --locked --no-default-features --all-targets --target-dir $(model_dir) -- -D warnings
	$(cargo) test --locked --no-default-features --lib --target-dir $(model_dir) -- --test-threads=1 ::model::
