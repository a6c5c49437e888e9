# Two commands do everything on a bare Debian 12: `make run` and `make test`.
.PHONY: run build test setup setup-test model format tidy install clean fuzz asan tsan debug
SHELL := /bin/bash
JOBS ?= $(shell nproc)

run: build model  ## install what is missing, build, get the default model, answer or open a chat
	@scripts/run_default.sh

build: setup
	@scripts/build.sh run

setup:
	@scripts/setup.sh build

setup-test:
	@scripts/setup.sh test

model:
	@scripts/get_model.sh

test: setup-test model  ## the whole test suite that fits; says what it left out
	@scripts/test.sh
