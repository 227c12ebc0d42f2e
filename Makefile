# `make demo` and `make test` are all that a fresh machine needs: Python 3.11 and a C++ compiler.
# Everything is installed into .venv, in editable mode; a stamp for each set of extras remembers that it has been done.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
NATIVE := pyproject.toml CMakeLists.txt $(wildcard runtime/schedules/native/*)
# The editable install of these versions of scikit-build-core rebuilds nothing by itself, so changed C++ code means a new install.
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --editable

.PHONY: demo test bench clean

demo: $(VENV)/installed-demo
	$(BIN)/python -m metagrad demo

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n 2 --dist loadgroup

bench: $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.step_vjp
	$(BIN)/python -m benchmarks

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-%: $(BIN)/python $(NATIVE)
	@echo "installing metagrad[$*] into $(VENV) (a few minutes, once)"
	$(INSTALL) ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
