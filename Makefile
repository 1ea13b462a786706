# `make demo` and `make test` work on a fresh clone; each sets up .venv first.
# Another interpreter: make PYTHON=/path/to/python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check

# Whole files go to a worker, in the order of tests/conftest.py.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo quick test slow fuzz lint docs pictures notebooks clean

demo: $(VENV)/installed
	$(BIN)/waymax-sim demo --out demo

test: lint
	$(PYTEST)

# The tests that compile little, with fewer random examples, for a run after each change.
quick: $(VENV)/installed-dev
	$(PYTEST) -m "not slow and not compile_heavy" --hypothesis-profile=quick

# All tests, with programs as optimized as those that users run.
slow: $(VENV)/installed-dev
	JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(PYTEST) -m "slow or not slow"

# Mutations of the inputs of all readers; failing inputs are left in fuzz_failures.
MINUTES ?= 10
fuzz: $(VENV)/installed-dev
	$(BIN)/python -m tests.field.fuzz --minutes $(MINUTES) --out fuzz_failures

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build -W --keep-going docs docs/_build/html

# The pictures of the README; the screenshot needs Chromium.
pictures: $(VENV)/installed
	$(BIN)/python examples/make_pictures.py docs/images

# Executes the notebooks and stores their outputs.
notebooks: $(VENV)/installed-dev
	$(BIN)/python -m tests.notebook_outputs

clean:
	rm -rf $(VENV) .cache build demo fuzz_failures docs/_build *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python " + sys.version)' || { \
	  echo 'waymax-sim needs Python 3.11 or newer; "$(PYTHON)" is older or does not work (see above).' >&2; \
	  echo 'Name another: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps are older than setup.py when what is needed has changed.
$(VENV)/installed: setup.py | $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-dev: setup.py | $(BIN)/python
	$(PIP) --editable '.[test,docs]'
	@touch $@ $(VENV)/installed
