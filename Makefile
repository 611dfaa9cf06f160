# One profile for runs, tests and benchmarks; `make help` lists the targets.
RECIPE ?= sample
OUT ?=
# Further flags of the program: make corpus ARGS="--threads 1"
ARGS ?=
DATA ?= ../shared/data
CARGO ?= cargo
PREFIX ?= $(HOME)/.local
OSLER = $(CARGO) run --quiet --bin osler --

.DEFAULT_GOAL := help

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'

build: ## builds the program
	$(CARGO) build --bin osler

corpus: build ## builds a corpus: make corpus [RECIPE=path.toml] [OUT=dir]
	@$(OSLER) corpus --recipe $(RECIPE) $(if $(OUT),--out $(OUT)) $(ARGS)

train: build ## trains a model: make train [RECIPE=path.toml] [OUT=dir]
	@if [ "$(RECIPE)" = sample ] && [ ! -f out/sample/run.json ]; then $(OSLER) corpus; fi
	@$(OSLER) train --recipe $(RECIPE) $(if $(OUT),--out $(OUT)) $(ARGS)

plan: build ## prints what a run would do: make plan [RECIPE=path.toml]
	@$(OSLER) plan --recipe $(RECIPE) $(if $(OUT),--out $(OUT)) $(ARGS)

install: build ## puts the program where PREFIX says (~/.local/bin)
	install -D "$${CARGO_TARGET_DIR:-target}/debug/osler" "$(PREFIX)/bin/osler"

test: ## runs every test
	tests/run

kernels-check: ## compiles every CUDA kernel without a GPU and compares registers and spills: make kernels-check [ARGS=--bless]
	tests/kernels/check $(ARGS)

test-gpu: ## runs every kernel's cases on this machine's GPU against the CPU (ARGS="--only attention")
	tests/gpu/run test $(ARGS)

sanitize: ## runs them under compute-sanitizer's memcheck, racecheck and synccheck
	tests/gpu/run sanitize $(ARGS)

bench-gpu: ## times kernels, layers and steps on this machine's GPU beside PyTorch
	tests/gpu/run bench $(ARGS)

gpu-program: ## builds the one file that the three above need where there is no Rust; they take it from OSLER_GPU
	tests/gpu/run build

bench: ## measures against peers and limits; prints ratios
	tests/bench/run

quality: ## holds near-duplicates against all pairs' similarity, exact ones against a full suffix array: make quality [DATA=folder]
	$(CARGO) build --quiet --workspace --examples
	$${CARGO_TARGET_DIR:-target}/debug/examples/near_quality $(DATA)
	$${CARGO_TARGET_DIR:-target}/debug/examples/exact_quality $(DATA)

scale: ## ten million documents in 4 GiB, and 8 GB of text in 2 GiB, with planted repeats: make scale [KIND=near|exact]
	for kind in $(or $(KIND),near exact); do tests/scale/run $$kind || exit 1; done

fuzz: ## fuzzes every parser for a minute each (needs cargo-fuzz)
	tests/fuzz/run

kernels-asan: ## runs the CUDA kernels on a CPU under AddressSanitizer: make kernels-asan [ARGS=hopper]
	tests/kernels/sanitize $(ARGS)

fmt: ## formats the code
	$(CARGO) fmt --all

lint: ## checks formatting and lints
	$(CARGO) fmt --all -- --check
	CARGO_PROFILE_DEV_OPT_LEVEL=0 CARGO_PROFILE_DEV_DEBUG=0 CLIPPY_ARGS="-Dwarnings" RUSTC_WORKSPACE_WRAPPER="$$(rustc --print sysroot)/bin/clippy-driver" $(CARGO) build --workspace --all-targets --keep-going

clean-out: ## deletes the output of the sample
	rm -rf out

.PHONY: help build corpus plan train install test test-gpu sanitize bench-gpu gpu-program kernels-check bench quality scale fuzz kernels-asan fmt lint clean-out
