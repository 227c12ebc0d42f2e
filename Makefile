# `make demo` and `make test` are all that a fresh machine needs: a Python (3.11, 3.12 or 3.13) and a
# C++ compiler. The newest Python on the PATH is taken, or the one that is named: make test
# PYTHON=/path/to/python3.12. Everything is installed into a virtual environment for that version,
# in editable mode; a stamp for each set of extras remembers that it has been done.
#
# `make matrix` runs the tests with every Python and JAX that metagrad claims (noxfile.py).

ifneq ($(MAKECMDGOALS),clean)
CHOSEN := $(shell .ci/find-python "$(PYTHON)")
ifeq ($(CHOSEN),)
$(error no Python to work with: see the line above)
endif
VERSION := $(shell "$(CHOSEN)" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif

VENV := .venv-$(VERSION)
BIN := $(VENV)/bin
NATIVE := pyproject.toml CMakeLists.txt $(wildcard runtime/schedules/native/* compiler/enzyme/native/*)
# The editable install of these versions of scikit-build-core rebuilds nothing by itself, so changed
# native code means a new install.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test test-long lint docs coverage bench gpu-compile matrix clean

demo: $(VENV)/installed-demo
	$(BIN)/python -m metagrad demo

# Enzyme's library is fetched before the tests, once, and not by several of them.
test: $(VENV)/installed-test
	$(BIN)/python -m metagrad doctor --fetch
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not long"

# The large models of every library, and what else takes a minute each.
test-long: $(VENV)/installed-test
	$(BIN)/python -m metagrad doctor --fetch
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m long

# Nothing is rewritten: `ruff format`, `ruff check --fix` and `clang-format -i` do that.
lint: $(VENV)/installed-lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/clang-format --dry-run --Werror $(filter %.cpp %.h %.c,$(NATIVE))
	$(BIN)/mypy

# The site, in build/site. A warning is an error, and nothing is fetched.
docs: $(VENV)/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

coverage: $(VENV)/installed-test
	$(BIN)/python -m metagrad doctor --fetch
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup -m "not slow" --cov --cov-report=term-missing:skip-covered

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.step_vjp
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.plan_accuracy
	$(BIN)/python -m benchmarks.frontier
	$(BIN)/python -m benchmarks.queries

# Compiles for an NVIDIA H100 without one, with Python 3.12 or 3.13: make gpu-compile
# PYTHON=python3.12 ARGS='--target-config FILE --models mlp'. The environment is not that of the
# tests: with JAX's CUDA plugin in it, JAX looks for a GPU wherever it starts.
GPU_VENV := $(VENV)-gpu

gpu-compile: $(GPU_VENV)/installed
	$(GPU_VENV)/bin/python -m metagrad doctor --fetch
	$(GPU_VENV)/bin/python -m benchmarks.gpu_compile $(ARGS)

matrix: $(VENV)/installed-matrix
	$(BIN)/python -m nox

$(BIN)/python:
	"$(CHOSEN)" -m venv $(VENV)

$(VENV)/installed-%: $(BIN)/python $(NATIVE)
	@echo "installing metagrad[$*] into $(VENV) (a few minutes, once)"
	$(INSTALL) ".[$*]"
	@touch $@

$(GPU_VENV)/installed: $(NATIVE)
	"$(CHOSEN)" -m venv $(GPU_VENV)
	@echo "installing metagrad[gpu-compile] into $(GPU_VENV) (a few minutes, once)"
	$(GPU_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[gpu-compile]"
	@touch $@

$(VENV)/installed-matrix: $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "nox>=2025.5.1"
	@touch $@

clean:
	rm -rf .venv .venv-* .nox build dist *.egg-info src/metagrad/*.so .cmake .ninja_* .skbuild-info.json \
	    CMakeCache.txt CMakeFiles CMakeInit.txt build.ninja cmake_install.cmake
