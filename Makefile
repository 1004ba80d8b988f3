# The commands of a developer and of a first-time user. Each says what it does and may be repeated.
#   make run     build, fetch the demo model, serve it on 127.0.0.1:8000   MODEL= PORT= ARGS= override
#   make test    everything CI runs
#   make parity  every model against transformers; rewrites the tables of docs/models.md (takes minutes)
#   make asan    the C++ tests and a server under AddressSanitizer and UBSan; needs clang 19
#   make tsan    those with threads under ThreadSanitizer; needs clang 19
#   make fuzz    every fuzz target for SECONDS_EACH seconds (60); needs clang 19
#   make build   install what is missing, build build/bin/atom
#   make check   source checks alone; make format: clang-format; make clean: removes what was built
SHELL := /bin/bash
MODEL ?=
PORT ?= 8000
ARGS ?=
JOBS ?=

SECONDS_EACH ?= 60

.PHONY: build run test parity asan tsan fuzz check format clean help
.DEFAULT_GOAL := build

build:
	@scripts/setup.sh build
	@JOBS=$(JOBS) scripts/build.sh

run: build
	@MODEL='$(MODEL)' PORT='$(PORT)' ARGS='$(ARGS)' scripts/run.sh

test:
	@scripts/setup.sh build test
	@JOBS=$(JOBS) scripts/test.sh

parity: build
	@JOBS=$(JOBS) scripts/build.sh atom_golden_test
	@scripts/parity.py

asan tsan:
	@JOBS=$(JOBS) scripts/sanitize.sh $@

fuzz:
	@JOBS=$(JOBS) scripts/fuzz.sh $(SECONDS_EACH)

check:
	@scripts/presubmit.sh --checks

format:
	@git ls-files '*.cpp' '*.h' | xargs clang-format -i

clean:
	rm -rf build .venv .venv-frameworks .venv-python .venv-accuracy

help:
	@sed -n 's/^#   //p' Makefile
