# The commands of a developer and of a first-time user. Each says what it does and may be repeated.
#   make run     build, fetch the demo model, serve it on 127.0.0.1:8000   MODEL= PORT= ARGS= override
#   make test    everything CI runs
#   make asan    the C++ tests under AddressSanitizer and UBSan
#   make build   install what is missing, build build/bin/atom
SHELL := /bin/bash
MODEL ?=
PORT ?= 8000
ARGS ?=
JOBS ?=

.PHONY: build run test asan check format clean help
.DEFAULT_GOAL := build

build:
	@scripts/setup.sh build
	@JOBS=$(JOBS) scripts/build.sh

run: build
	@MODEL='$(MODEL)' PORT='$(PORT)' ARGS='$(ARGS)' scripts/run.sh

test:
	@scripts/setup.sh build test
	@JOBS=$(JOBS) scripts/test.sh

asan:
	@scripts/setup.sh build
	cmake --preset asan >/dev/null
	cmake --build build/asan $(if $(JOBS),--parallel $(JOBS))
	@# UBSan alone only prints, and the test would pass.
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 ctest --test-dir build/asan --output-on-failure --no-tests=error

check:
	@scripts/presubmit.sh --checks

format:
	@git ls-files '*.cpp' '*.h' | xargs clang-format -i

clean:
	rm -rf build .venv .venv-frameworks

help:
	@sed -n 's/^#   //p' Makefile
