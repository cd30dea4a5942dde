# Two commands matter: `make demo` and `make test`. Each sets up all it needs in this folder; `make clean` undoes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STATE := $(CURDIR)/.roundhouse
READY := $(VENV)/.ready
VLLM := .venv-vllm
VLLM_READY := $(VLLM)/.ready
ORACLES := .venv-oracles
ORACLES_READY := $(ORACLES)/.ready
QUIET := export TMPDIR=$(STATE)/tmp PIP_DISABLE_PIP_VERSION_CHECK=1 DO_NOT_TRACK=true DVC_NO_ANALYTICS=1 \
  DVC_SITE_CACHE_DIR=$(STATE)/cache/dvc MPLCONFIGDIR=$(STATE)/cache/matplotlib PYTHONDONTWRITEBYTECODE=1; mkdir -p $(STATE)/tmp;

# Tests work in a folder of their own outside any repository, with short paths (unix sockets), and take it away again.
define tests
$(QUIET) t=$$(mktemp -d /tmp/rh.XXXXXX); trap 'rm -rf "$$t"' EXIT; mkdir "$$t/tmp"; export TMPDIR="$$t/tmp"; \
  $(BIN)/python -m pytest --basetemp="$$t/t"
endef

.PHONY: help demo test test-unit test-integration test-docker test-releases test-vllm test-oracles soak lint bench lock setup setup-vllm setup-oracles clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

demo: setup ## a model from the registry to live traffic, a better one after it, a bad one turned back
	@$(BIN)/roundhouse demo

test: setup ## all tests: lint, contracts, units, real servers (some 20 minutes on 2 cores)
	@$(BIN)/ruff check -q . && $(BIN)/lint-imports --no-cache >/dev/null
	@$(tests)

test-unit: setup ## the tests that need no server (about a minute)
	@$(tests) tests/unit tests/contract tests/engines -m "not integration"

test-integration: setup ## the tests with real servers only
	@$(tests) tests/integration tests/e2e

test-docker: setup ## containers on a real Docker engine (starts one as root where none answers; exits 77 where it cannot)
	@$(QUIET) tests/docker/with_engine $(BIN)/python -m pytest tests/docker tests/contract/test_platform_contract.py

test-releases: setup ## real releases with one fault each, and under each kind of policy (a quarter of an hour)
	@$(tests) tests/releases

test-vllm: setup setup-vllm ## vLLM on this machine's processors, with tensor parallelism (some minutes; 5 GB of memory)
	@$(tests) tests/vllm

test-oracles: setup-oracles ## the verdict's formulas against other people's implementations (500 MB)
	@$(QUIET) $(ORACLES)/bin/python -m pytest --noconftest tests/unit/rollout/test_oracles.py

soak: setup ## 10,000 changes and 1,000 leases of a gateway under load (some minutes)
	@$(tests) tests/soak

lint: setup ## style and import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/lint-imports --no-cache

bench: setup ## where a release's time goes
	@$(BIN)/python benchmarks/release.py --quick

setup: $(READY)

$(READY): requirements/test.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/it"; exit 2; }
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(QUIET) $(PYTHON) -m venv $(VENV) && $(BIN)/pip install -q --no-deps --require-hashes -r requirements/test.txt \
	  && $(BIN)/pip install -q --no-deps --no-build-isolation -e .
	@touch $(READY)

setup-vllm: $(VLLM_READY) ## vLLM for processors, in an environment of its own

# PyTorch's own CPU build where pip finds it, else the public one with the libraries that it is linked to (2 GB more).
$(VLLM_READY): requirements/vllm.txt requirements/vllm-torch.txt requirements/vllm-torch-cpu.txt
	@echo "setting up $(VLLM) (a few minutes, once)"
	@$(QUIET) $(PYTHON) -m venv $(VLLM) && $(VLLM)/bin/pip install -q --no-deps --require-hashes -r requirements/vllm.txt \
	  && { $(VLLM)/bin/pip install -q --no-deps --require-hashes -r requirements/vllm-torch-cpu.txt 2>/dev/null \
	    || $(VLLM)/bin/pip install -q --no-deps --require-hashes -r requirements/vllm-torch.txt; }
	@touch $(VLLM_READY)

setup-oracles: $(ORACLES_READY) ## those implementations, in an environment of their own

$(ORACLES_READY): requirements/oracles.txt
	@echo "setting up $(ORACLES) (a minute, once)"
	@$(QUIET) $(PYTHON) -m venv $(ORACLES) && $(ORACLES)/bin/pip install -q --no-deps --require-hashes -r requirements/oracles.txt
	@touch $(ORACLES_READY)

lock: ## pin the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q requirements/test.in -o requirements/test.txt
	uv pip compile --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q requirements/sample-model.in -o requirements/sample-model.txt
	uv pip compile --no-deps --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q requirements/eas-client.in -o requirements/eas-client.txt
	uv pip compile --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header -q --override requirements/vllm-left-out.in requirements/vllm.in -o requirements/vllm.txt
	uv pip compile --no-deps --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header -q requirements/vllm-torch.in -o requirements/vllm-torch.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -q requirements/oracles.in -o requirements/oracles.txt

clean: ## stop the stack and delete everything that was made here
	@if [ -x $(BIN)/roundhouse ] && [ -d $(STATE) ]; then $(BIN)/roundhouse down || exit 1; fi
	@rm -rf $(VENV) $(VLLM) $(ORACLES) $(STATE) .dvc/cache .dvc/tmp build dist *.egg-info .hypothesis .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
