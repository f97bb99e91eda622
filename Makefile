# Every target sets up .venv first, once: needs only make and Python 3.11 or newer.
# `make PYTHON=/path/to/python3` names the interpreter, `make JOBS=4 test` the number of test processes.

PYTHON ?= python3.13 python3.12 python3.11 python3
JOBS ?= 2

BIN := .venv/bin
SETUP := .venv/.installed
PYTEST := $(BIN)/pytest -n $(JOBS) --dist worksteal
NOTEBOOKS = $(sort $(wildcard notebooks/*.ipynb))

# Cells are numbered: jupytext's own identifiers are random and would change at every call.
define WRITE_NOTEBOOKS
import sys
import jupytext
for script in sys.argv[1:]:
    notebook = jupytext.read(script)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
    jupytext.write(notebook, script[:-3] + ".ipynb")
endef
export WRITE_NOTEBOOKS

.DEFAULT_GOAL := help
.PHONY: help setup study test slow x64 tvm check check-rest format format-check lint types contracts notebooks bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(SETUP): pyproject.toml constraints.txt
	@set -e; python=; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for candidate in $(PYTHON); do \
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python="$$candidate"; break; fi; \
	    done; \
	    if [ -z "$$python" ]; then echo "Tempo needs Python 3.11 or newer, and none of these is: $(PYTHON)" >&2; exit 1; fi; \
	    echo "Making .venv with $$python (once, about a minute)"; \
	    "$$python" -m venv --clear .venv; \
	fi; \
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'; \
	touch $@

setup: $(SETUP) ## make .venv with everything in it

study: $(SETUP) ## the main job: workloads in, report out, into study/
	$(BIN)/tempo study --out study

test: $(SETUP) ## the tests, without the slow ones
	$(PYTEST) -m "not slow"

slow: $(SETUP) ## the slow tests: the built wheel, long training
	$(PYTEST) -m slow

x64: $(SETUP) ## the models in double precision; agents, files and counts do not depend on it
	JAX_ENABLE_X64=1 $(PYTEST) -m "not slow and not single"

tvm: $(SETUP) ## TVM's tuner on our timing model, in an environment of its own
	test -x .venv-tvm/bin/python || $(BIN)/python -m venv .venv-tvm
	.venv-tvm/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[tvm]' pytest pytest-timeout beartype hypothesis
	.venv-tvm/bin/python -m pytest tests/test_costmodel_tvm.py

check: test check-rest ## everything a change must pass

check-rest: format-check lint types contracts slow x64 tvm notebooks ## what `make check` does beyond `make test`

format: $(SETUP) ## format the code, then write each notebook anew from its .py pair
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .
	$(BIN)/python -c "$$WRITE_NOTEBOOKS" $(wildcard notebooks/*.py)

format-check: $(SETUP) ## is the code formatted?
	$(BIN)/ruff format --check .

lint: $(SETUP) ## ruff
	$(BIN)/ruff check .

types: $(SETUP) ## basedpyright
	$(BIN)/basedpyright

contracts: $(SETUP) ## imports point one way
	$(BIN)/lint-imports

notebooks: $(SETUP) ## run every notebook
	$(if $(NOTEBOOKS),$(PYTEST) --nbmake --nbmake-timeout=600 $(NOTEBOOKS))

bench: $(SETUP) ## the benchmarks, in ratios of things timed in one run
	$(BIN)/python tests/benchmarks/run.py

clean: ## remove what the targets above left, .venv excepted
	rm -rf study dist build .bench .pytest_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks *.egg-info
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -prune -exec rm -rf {} +
