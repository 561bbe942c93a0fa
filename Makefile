# Needs make, a C compiler and Python 3.11 or later (`make demo PYTHON=/path/to/python3` names one).
# Everything is installed into .venv, nothing outside this directory is touched.

PYTHON ?= $(shell for name in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo "$$name"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
LOG ?=
# A directory on the file system that `make bench` is to measure.
BENCH_SCRATCH ?= build/bench

.PHONY: demo test test-pure lint torture bench bench-full bench-report bench-single clean

# Take a real log through append, roll, crash, reopen and read. `make demo LOG=file` takes yours.
demo: $(VENV)/.installed
	@$(BIN)/python examples/demo.py $(LOG)

test: $(VENV)/.dev-installed
	$(BIN)/python -m pytest

# The same without the C kernel; the campaigns and the command line don't care which is in use.
test-pure: $(VENV)/.dev-installed
	SEGSTORE_PURE=1 $(BIN)/python -m pytest tests/format tests/segment tests/log tests/sealed tests/golden

# The fault campaigns at the numbers to beat, about an hour on two cores, and the C kernel under its
# sanitizers; what they did goes to docs/torture.md. `make torture CAMPAIGNS="T2 T5" BUDGET=0.1
# TORTURE_DOCUMENT=` runs a part of it and writes nothing.
CAMPAIGNS ?=
BUDGET ?= 1
# Enough for the million openings of T11; the other campaigns run beside it.
SECONDS_MAX ?= 3300
TORTURE_JOBS ?= 2
TORTURE_DOCUMENT ?= docs/torture.md
FUZZ_SECONDS ?= 60

torture: $(VENV)/.dev-installed
	$(BIN)/python tests/kernel/asan_fuzz.py --seconds $(FUZZ_SECONDS)
	$(BIN)/python -m tests.torture $(CAMPAIGNS) --budget $(BUDGET) --seconds $(SECONDS_MAX) \
		--jobs $(TORTURE_JOBS) \
		$(if $(TORTURE_DOCUMENT),--document $(TORTURE_DOCUMENT))

lint: $(VENV)/.dev-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Every figure of benchmarks/README.md, under 15 minutes. BENCH_LINES=file takes log lines from there.
bench: bench-single
	@mkdir -p $(BENCH_SCRATCH)
	$(BIN)/python -m benchmarks run --scratch $(BENCH_SCRATCH)
	$(BIN)/python -m benchmarks report

# The same with a 20 GB log and 10 GB through a reader and a writer: hours, and 30 GB of disk.
bench-full: $(VENV)/.bench-installed
	@mkdir -p $(BENCH_SCRATCH)
	$(BIN)/python -m benchmarks run --full --scratch $(BENCH_SCRATCH)
	$(BIN)/python -m benchmarks report

bench-report: $(VENV)/.bench-installed
	$(BIN)/python -m benchmarks report

bench-single: $(VENV)/.bench-installed
	$(BIN)/python -m pytest benchmarks --override-ini addopts= --quiet \
		--benchmark-max-time=0.3 --benchmark-disable-gc \
		--benchmark-columns=median,iqr,min,max,rounds

clean:
	rm -rf $(VENV) .demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis \
		.benchmarks .import_linter_cache segstore/_kernel.*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later found; install one, or say" \
		"PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@# Groups of dependencies are read by pip from 25.1 on.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

# pip's own log of this is also what the demo reads where the machine has no log of its own.
# Compat mode puts the directory on the path as it is. The other one would hide segstore wherever
# Python is started in the directory that holds the clone, if that is named segstore.
$(VENV)/.installed: pyproject.toml $(wildcard setup.py) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --log $(VENV)/install.log \
		--config-settings editable_mode=compat --editable '.[cli]'
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev
	@touch $@

$(VENV)/.bench-installed: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group bench
	@touch $@
