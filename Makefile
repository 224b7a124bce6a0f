# The two commands a newcomer needs: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo check test gpu emulate bench wheel bundle clean

setup: $(READY)

# pip stays in the environment; the pinned versions are the ones everything was tested with.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e . $(shell $(PYTHON) docs/dev_requirements.py)
	@touch $(READY)

demo: setup
	$(BIN)/antangel diagnose examples/chest-pain.json

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python -m pytest -m "not gpu"

gpu: setup
	$(BIN)/python -m pytest -m gpu || test $$? -eq 5

# Kernels of processors that are not here; needs g++-aarch64-linux-gnu, qemu-user and libsimde-dev.
emulate: setup
	ANTANGEL_EMULATE=1 $(BIN)/python -m pytest tests/emulated tests/kernels

bench: setup
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.speed

wheel: setup
	$(BIN)/python -m build --wheel --no-isolation

bundle: wheel
	$(BIN)/python docs/bundle.py

clean:
	rm -rf $(VENV) dist build
