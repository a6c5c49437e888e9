# Two commands do everything on a bare Debian 12: `make run` and `make test`.
# Every target is a thin call of a script in scripts/, so that each step can be run by hand.
.PHONY: run build test setup setup-test setup-dev model texts tables debug asan tsan fuzz neon avx512 \
        setup-neon setup-avx512 format tidy check install clean help
SHELL := /bin/bash
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
# How long `make fuzz` spends on each target, seconds.
FUZZ_SECONDS ?= 60
export JOBS

run: build model  ## install what is missing, build, get the default model, answer or open a chat
	@scripts/run_default.sh

test: setup-test model  ## build and run every test that fits; says what it left out
	@scripts/test.sh

build: setup  ## build only the program, build/release/phasor
	@scripts/build.sh run

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

setup-dev:
	@scripts/setup.sh dev

model: setup  ## get the default model (93 MB) into the user's cache folder
	@scripts/get_model.sh

texts:  ## get the novels that quality is measured on (4 MB) into the user's cache folder
	@scripts/get_texts.sh

tables: build model texts  ## print the quality tables of docs/quality.md (20 minutes on two quiet cores)
	@bench/tables.sh

debug: setup-test  ## build program and tests without optimization in build/debug
	@scripts/build.sh debug

asan: setup-test model  ## unit and command-line tests under the address and undefined-behaviour sanitizers
	@scripts/build.sh asan
	@ctest --test-dir build/asan --output-on-failure -j $(JOBS) -L "unit|cli"

tsan: setup-test model  ## unit tests under the thread sanitizer
	@scripts/build.sh tsan
	@ctest --test-dir build/tsan --output-on-failure -j $(JOBS) -L unit

fuzz: setup-test  ## fuzz the parsers for FUZZ_SECONDS (60) each
	@scripts/fuzz.sh $(FUZZ_SECONDS)

setup-neon:
	@scripts/setup.sh neon
	@scripts/neon_libraries.sh

neon: setup-neon  ## cross-compile for 64-bit ARM and run the tests of its CPU levels under qemu (minutes)
	@scripts/neon.sh

setup-avx512:
	@scripts/setup.sh avx512

avx512: setup-avx512  ## run the tests of CPU levels with AVX-512 emulated, on a CPU with AVX2 (minutes)
	@scripts/avx512.sh

format: setup-test  ## rewrite all sources with the pinned clang-format
	@scripts/check_format.sh --fix

tidy: setup-dev  ## clang-tidy over src/ and apps/
	@scripts/tidy.sh

check:  ## layer, size, format and document checks alone (seconds)
	@python3 scripts/check_layers.py
	@python3 scripts/check_sizes.py
	@scripts/check_format.sh
	@python3 scripts/check_docs.py

install: build  ## install program, library, headers and CMake package: make install PREFIX=/usr/local
	@cmake --install build/release --prefix "$(PREFIX)"

clean:  ## remove the build folder (the model in the cache folder stays)
	@rm -rf build

help:  ## list these targets
	@grep -hE '^[a-z0-9-]+:.*  ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*  ## /\1\t/' | expand -t 12
