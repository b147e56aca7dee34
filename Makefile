# make serve | make test | make cpp-test | make check | make venv: everything else is narsil-graph --help.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test cpp-test check venv bench bench-gate gpu-check clean

serve: .venv/serving
	$(BIN)/narsil-graph serve

test: check
	$(BIN)/pytest

# The C++ client and narsil-load under sanitizers, and against the Python server; wants Debian packages (clients/cpp/test.sh).
cpp-test: .venv/developing
	clients/cpp/test.sh build/cpp

check: .venv/developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/pytest -q tests/test_tidy.py

venv: .venv/developing

# The benchmarks of benchmarks/README.md that need nothing but this machine; about ten minutes on two cores.
bench: .venv/developing
	$(BIN)/pip install --quiet --editable '.[cpu,bench,peers]'
	$(BIN)/python benchmarks/run.py

# Ratios of this run against benchmarks/gates.toml, under three minutes on two cores; fails on what is beyond its noise.
bench-gate: .venv/developing
	$(BIN)/python benchmarks/gate.py

# Tests, doctor and replay benchmark on a CUDA machine, with the packages that .venv or $(PYTHON) has; installs nothing.
gpu-check:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu_check.py

# Once developing, serving needs nothing more; both stamps hold until the dependencies change.
.venv/serving: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[cpu]'
	touch $@

.venv/developing: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[cpu,dev]'
	touch $@ .venv/serving

clean:
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache .hypothesis
