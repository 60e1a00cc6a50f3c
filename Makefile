# make demo and make test need make, a C++20 compiler (g++ 12), CMake 3.25 and, on Debian, apt; no root. deps/setup.sh
# names what is missing. For more than these two, use the presets (CONTRIBUTING.md).

MAKEFLAGS += --no-print-directory
BUILD := build/release
DEMO_ARGS ?= generate -m models/gsd-target-q8_0.gguf -d models/gsd-draft-q8_0.gguf -f models/prompts/demo.txt --n-predict 200 --ignore-eos --compare
PREFIX ?= /usr/local
GSD_USE_PREFIX ?= OFF

# One job per core, but no more than one per GiB of free memory.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); \
  m=$$(awk '/^MemAvailable/ { print int($$2 / 1048576) }' /proc/meminfo 2>/dev/null); \
  [ "$${m:-$$n}" -ge "$$n" ] || n=$$m; [ "$$n" -ge 1 ] || n=1; echo $$n)

.PHONY: help demo program test bench install package wheel configure clean distclean
.DEFAULT_GOAL := help

help:
	@echo 'make demo    fetch what is needed into .prefix, build, and generate text from the bundled models'
	@echo '             (DEMO_ARGS="..." are the arguments of build/release/bin/gsd)'
	@echo 'make test    the same set-up, then all tests'
	@echo 'make install PREFIX=/usr/local    program, library, manual; DESTDIR=... for packagers. The tree can be moved'
	@echo 'make package a tarball and a .deb in build/release/packages'
	@echo 'make wheel   the Python package, in build/release/wheel'
	@echo 'make bench   measure the modes beside each other on the bundled pair, under five minutes'
	@echo 'make clean   delete build/ (distclean: .prefix/ too)'
	@echo 'GSD_USE_PREFIX=ON takes the pinned libllama of .prefix even where the system has one'

# Configures unless that is done; the build itself configures again when a CMake file or the prefix has changed.
configure:
	@GSD_USE_PREFIX=$(GSD_USE_PREFIX) deps/setup.sh
	@if [ ! -f $(BUILD)/.configured-$(GSD_USE_PREFIX) ]; then \
	  rm -f $(BUILD)/.configured-*; \
	  if [ -z "$$CMAKE_GENERATOR" ] && [ ! -f $(BUILD)/CMakeCache.txt ] && command -v ninja >/dev/null; then \
	    export CMAKE_GENERATOR=Ninja; \
	  fi; \
	  cmake --preset release -DGSD_UNITY=ON -DGSD_USE_PREFIX=$(GSD_USE_PREFIX) && touch $(BUILD)/.configured-$(GSD_USE_PREFIX); \
	fi

# The program and the plugin alone.
program: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target gsd_program

demo: program
	@$(BUILD)/bin/gsd $(DEMO_ARGS)

test: configure
	@cmake --build $(BUILD) --parallel $(JOBS)
	@ctest --test-dir $(BUILD) --output-on-failure --parallel $(JOBS)

# Under five minutes on two cores; the README's table. BENCH_ARGS="..." adds flags of gsd bench.
bench: program
	@$(BUILD)/bin/gsd bench -m models/gsd-target-q8_0.gguf -d models/gsd-draft-q8_0.gguf \
	  --prompts models/prompts/prompts.jsonl --repetitions 2 --out $(BUILD)/bench.jsonl --html $(BUILD)/bench.html $(BENCH_ARGS)
	@echo 'charts: $(BUILD)/bench.html'

install: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target gsd_installed
	@umask 022 && DESTDIR='$(DESTDIR)' cmake --install $(BUILD) --prefix '$(PREFIX)' --strip

package: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target gsd_installed
	@umask 022 && cd $(BUILD) && cpack

wheel: configure
	@cmake --build $(BUILD) --parallel $(JOBS) --target gsd_wheel

clean:
	rm -rf build

distclean: clean
	rm -rf .prefix
