# `make demo` on a fresh machine with Python 3.11 sets everything up and runs the main job.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Several processes share the cores: a thread that waits sleeps instead of spinning.
export OMP_WAIT_POLICY ?= passive

.PHONY: help venv demo test gpu-check toolchain-check check format clean

help:
	@echo "make demo    set up, then: train, register, lighten, prove, register back, serve, compare"
	@echo "make test    all tests"
	@echo "make gpu-check  the tests that need a CUDA GPU; writes what they saw to build/gpu-check.md"
	@echo "make check   lint, format, types, import directions"
	@echo "make toolchain-check  install the converters' environments (4 GB, minutes) and run the tests that need them"
	@echo "make format  let ruff write"
	@echo "make venv    only set up $(VENV)"
	@echo "make clean   remove what these made ($(VENV) and demo/ too)"

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/digits/demo.py demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 tests/unit tests/contract tests/golden tests/chart
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/integration

gpu-check: $(STAMP)
	mkdir -p build
	LWPLUGIN_GPU_PAGE=build/gpu-check.md $(BIN)/python -m pytest tests/gpu
	cat build/gpu-check.md

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	BIN=$(BIN) sh tests/contract/mypy_strict.sh
	$(BIN)/python -m pytest -q tests/contract/test_imports.py

# Slow, and not part of CI: the environments of the converters and the tests that convert.
toolchain-check: $(STAMP)
	$(BIN)/lwplugin toolchain install litert
	$(BIN)/lwplugin toolchain install executorch
	LWPLUGIN_REQUIRE_TOOLCHAINS=1 $(BIN)/python -m pytest -m toolchain tests

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
