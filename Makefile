# `make help` lists what there is to make.

VENV := .venv
BIN := $(VENV)/bin
PYTHON_IN_VENV := $(BIN)/python
PROTOS := $(wildcard proto/longshore_api/v1/*.proto)
STUBS := $(PROTOS:.proto=_pb2.py)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test faults fuzz sim check imports bench bench-peers proto release-proto docs screenshots lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.installed $(STUBS) ## everything that is needed to work on this, in .venv (PYTHON=... chooses another Python)

$(VENV)/.locked: requirements.lock setup/venv.sh
	@PYTHON="$(PYTHON)" setup/venv.sh $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml hatch_build.py
	@$(PYTHON_IN_VENV) -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

$(STUBS) &: $(PROTOS) hatch_build.py $(VENV)/.locked
	@$(PYTHON_IN_VENV) hatch_build.py

demo: setup ## the whole service on this machine runs two programs and shows what became of them
	@setup/engine.sh $(PYTHON_IN_VENV) && runtime=auto || \
		{ runtime=process; echo "going on without it: jobs run as plain processes." >&2; }; \
	$(PYTHON_IN_VENV) setup/demo.py --runtime $$runtime

test: setup check ## everything: engine, database, checks, all tests
	@setup/engine.sh $(PYTHON_IN_VENV) || true
	@setup/postgres.sh || true
	$(PYTHON_IN_VENV) -m pytest -n 2

faults: setup ## the fault tests with TIMES as many faults (default 5) from another SEED each time
	FAULT_TIMES=$(or $(TIMES),5) FAULT_SEED=$(or $(SEED),$$(date +%s)) $(PYTHON_IN_VENV) -m pytest -n 2 tests/faults

fuzz: setup ## N (default 20000) requests made of the descriptors, from SEED, to every method of the service
	FUZZ_REQUESTS=$(or $(N),20000) FUZZ_SEED=$(or $(SEED),$$(date +%s)) $(PYTHON_IN_VENV) -m pytest -n 2 \
		tests/integration/controller/test_fuzz.py

bench: setup ## how fast it is, beside what is possible here (GOALS="1 2" chooses, QUICK=1 for small sizes)
	@setup/postgres.sh || true
	@setup/engine.sh $(PYTHON_IN_VENV) || true
	PYTHONPATH=tests $(PYTHON_IN_VENV) -m bench $(GOALS) $(if $(QUICK),--quick) --json .build/bench.json

bench-peers: setup ## goal 2 beside other schedulers, in a venv of theirs below .build (QUICK=1 for small sizes)
	@setup/postgres.sh || true
	@test -x .build/peers/bin/python || $(PYTHON_IN_VENV) -m venv .build/peers
	PYTHONPATH=tests $(PYTHON_IN_VENV) -m bench.beside .build/peers $(if $(QUICK),--quick)

sim: setup ## SEEDS histories (default 1000) of both whole programs in virtual time, from seed FROM (default 0)
	cd tests && nice -n 10 ../$(PYTHON_IN_VENV) -m sim --layer 2 --jobs $(or $(JOBS),$$(nproc)) \
		$(or $(FROM),0) $(or $(SEEDS),1000)

check: setup imports ## style, types, imports, protocol; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(PYTHON_IN_VENV) setup/check_protos.py

imports: setup ## who may import whom (the contracts are in pyproject.toml)
	$(BIN)/lint-imports --no-logo

proto: setup ## make the gRPC stubs again
	$(PYTHON_IN_VENV) hatch_build.py

release-proto: setup ## record the protocol as released: `make check` then holds the future to it
	$(PYTHON_IN_VENV) setup/check_protos.py --release

docs: setup ## the documentation, in .build/docs/index.html
	@$(PYTHON_IN_VENV) -m pip install -qq --disable-pip-version-check -r docs/requirements.lock
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -d .build/doctrees docs .build/docs
	@echo "open .build/docs/index.html"

screenshots: setup ## pictures of the dashboard before a real service, in docs/screenshots
	@$(PYTHON_IN_VENV) setup/screenshots.py

lock: setup ## pin the newest packages that pyproject.toml allows
	$(PYTHON_IN_VENV) -m pip install -qq --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras --group dev \
		--generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		--output-file requirements.lock pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --group docs \
		--constraint requirements.lock --generate-hashes --no-emit-index-url --custom-compile-command "make lock" \
		--output-file docs/requirements.lock

clean: ## remove all that was made, the environment too
	rm -rf $(VENV) .build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f proto/longshore_api/v1/*_pb2*.py proto/longshore_api/v1/*_pb2*.pyi
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
