# Everything a fresh machine needs: Python 3.11+ and make. Each target sets up the environment by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint format clean

demo: $(STAMP)  ## each system end to end, with report.html: a student and its probe, a foveated VLM and its answers, a small SAM3 and its memory
	$(BIN)/reelshard demo --out demo_output
	$(BIN)/reelshard demo --system fvlm --out demo_output_fvlm
	$(BIN)/reelshard demo --system sam3_video --out demo_output_sam3

test: $(STAMP)  ## every test, the slow ones included
	$(BIN)/python -m pytest

lint: $(STAMP)  ## ruff, mypy and the dependency rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# torch first and by its exact version: `pip install torch==2.13.0` takes a CPU build where one is offered.
$(STAMP): pyproject.toml constraints.txt hatch_build.py pipeline/read/gather.c pipeline/read/copy.h pipeline/read/guard.c pipeline/read/guard.h pipeline/read/decode.c pipeline/order/choose.c
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reelshard needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,zarr]'
	touch $@

clean:
	rm -rf $(VENV) pipeline/read/_gather.so* pipeline/read/_decode.so* pipeline/order/_choose.so* demo_output demo_output_* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
