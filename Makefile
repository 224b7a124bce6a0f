# The two commands a newcomer needs: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
INSTALLED := $(VENV)/.installed
READY := $(VENV)/.ready

.PHONY: setup demo check test eval eval-refresh fuzz injection compile gpu gpu-tests emulate bench wheel bundle clean

# pip stays in the environment; the pinned versions are the ones everything was tested with.
$(INSTALLED): pyproject.toml constraints.txt
	@echo "installing into $(VENV), once: minutes, and gigabytes where torch comes with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt hatchling editables
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e .
	@touch $(INSTALLED)

# And what tests, checks and measurements need besides.
$(READY): $(INSTALLED)
	$(BIN)/python -m pip install -q -c constraints.txt $(shell $(PYTHON) docs/dev_requirements.py)
	@touch $(READY)

setup: $(READY)

demo: $(INSTALLED)
	$(BIN)/antangel diagnose examples/chest-pain.json

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(EVAL) --against $(EXPECTED) -q

# The demonstration model's answers to a small set, which stay as they are unless something changed them.
EVAL := XDG_CONFIG_HOME=$(VENV)/no-config XDG_STATE_HOME=$(VENV)/state $(BIN)/antangel eval examples/eval-small.jsonl
EXPECTED := bench/results/eval-small.json

eval: setup
	$(EVAL) --stability

# After a change that was meant: look at what `make check` listed, then keep the new answers.
eval-refresh: setup
	$(BIN)/python -m nano.eval_set
	$(EVAL) --json -o $(EXPECTED) --force -q

# Inputs that nobody would write, against everything that reads; findings end in bench/results/fuzz.json.
N ?= 100000
GUIDED ?= 40000
fuzz: setup
	@$(BIN)/python -c "import atheris" 2> /dev/null || $(BIN)/python -m pip install -q -c constraints.txt atheris || true
	nice -n 19 $(BIN)/python -m fuzz --inputs $(N) --guided $(GUIDED)

# Instructions written into the example cases, and what the demonstration model makes of them.
injection: setup
	$(BIN)/python -m bench.injection

# Two halves that take about as long, side by side: one is of the runtime, and is shown behind the other.
BENEATH := tests/runtime tests/bench
SHOWN_LAST := .venv/beneath.log

test: check
	@echo "running the tests of the command line and the kernels, and beside them those of the runtime"
	@$(BIN)/python -m pytest -m "not gpu" $(BENEATH) > $(SHOWN_LAST) 2>&1 & beneath=$$!; \
	$(BIN)/python -m pytest -m "not gpu" $(addprefix --ignore=,$(BENEATH)); above=$$?; \
	wait $$beneath; below=$$?; cat $(SHOWN_LAST); exit $$((above | below))

# Kernels for all architectures, each case for all five: minutes, where `make test` takes one for each in turn.
compile: setup
	ANTANGEL_COMPILE=all $(BIN)/python -m pytest tests/kernels/gpu/test_compile.py

# What `make test` interprets and compiles runs on a GPU, and so does what needs one.
GPU_TESTS := tests/kernels/gpu tests/runtime/gpu

gpu: setup
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(MAKE) --no-print-directory gpu-tests; \
	else echo "no GPU here: torch finds no CUDA device, so that nothing was run"; fi

gpu-tests:
	TRITON_INTERPRET=0 $(BIN)/python -m pytest $(GPU_TESTS)
	TRITON_INTERPRET=0 $(BIN)/python -m pytest -m gpu $(GPU_TESTS:%=--ignore=%) || test $$? -eq 5

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
