# make run     a node on this machine, in the foreground      make test       every test
# make cluster a Redis, two nodes, a router and HAProxy, likewise
# make check   what must hold before a change goes in         make test-core  those that need no foreign server
# make bench   the table of docs/performance                  make soak       what takes longer
# make format, make docs, make proto, make clean
# ARGS=… is handed on: make run ARGS="--listen native+tcp:tcp:7911", make test-core ARGS="tests/core -x",
# make bench ARGS="p2p --window 4"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# So many processes share the tests, unless ARGS says which. A test that hangs is not given another try.
WORKERS ?= 2
PARALLEL := --numprocesses $(WORKERS) --max-worker-restart 0 --dist loadfile --no-loadscope-reorder

# Each stamp stands for a set of installed extras. It lives in the environment, so it goes with it.
RUN := $(VENV)/.installed-run
TEST := $(VENV)/.installed-test
CHECK := $(VENV)/.installed-check
TESTED := $(VENV)/.tested

PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

PROTO := $(wildcard proto/*.proto)
GENERATED := $(PROTO:proto/%.proto=%_pb2.py) $(PROTO:proto/%.proto=%_pb2.pyi)
# $(call protoc,DIRECTORY): generates there
protoc = $(BIN)/python -m grpc_tools.protoc --proto_path=proto \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --python_out=$(1) --mypy_out=$(1) $(PROTO)

# What the outcome of a test run depends on.
SOURCES = $(shell find imgateway twisted tests bench docs proto deploy setup.cfg pyproject.toml README.md \
	-type f -not -name '*.pyc' -not -name dropin.cache -not -path 'docs/_build/*' 2>/dev/null)

.PHONY: run cluster test test-core check lint types proto proto-check docs bench soak format clean
.DELETE_ON_ERROR:

# So that a node that finds its ports taken can say how to take others.
run: export IMGATEWAY_RUN_BY = make
run: $(RUN)
	@exec $(BIN)/twistd -n --pidfile= imgateway --set log.format=text $(ARGS)

cluster: $(RUN)
	@exec $(BIN)/python deploy/cluster.py $(ARGS)

# Hundreds of nodes are started: none compiles anew what another did. And whoever compiles its modules at the
# start has memory left over from that, which would make the first thousands of sessions look smaller.
test test-core bench soak: export PYTHONDONTWRITEBYTECODE =

# Without ARGS the run is measured, and make check takes its figures as long as no source is newer.
test: $(TEST)
	@tests/needs.sh
ifeq ($(ARGS),)
	@rm -f $(TESTED) .coverage .coverage.*
	@touch $(TESTED).new
	$(BIN)/python -m coverage run -m pytest $(PARALLEL)
	$(BIN)/python -m coverage combine --quiet
	@mv $(TESTED).new $(TESTED)
else
	$(BIN)/python -m pytest $(ARGS)
endif

test-core: $(TEST)
	$(BIN)/python -m pytest -m "not server" $(or $(ARGS),$(PARALLEL))

# The quick judges first: the tests run last, and only if they did not just run.
check: $(CHECK) lint types proto-check docs
	$(BIN)/python -m pytest -q -p no:randomly tests/test_architecture.py
	@$(MAKE) --no-print-directory $(TESTED)
	$(BIN)/python -m coverage report

# The stamp keeps the time when the run began: a source that changed meanwhile counts as newer.
$(TESTED): $(SOURCES)
	@$(MAKE) --no-print-directory test ARGS=

lint: $(CHECK)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(CHECK)
	$(BIN)/mypy

proto: $(CHECK)
	$(call protoc,imgateway/wire)

proto-check: $(CHECK)
	@rm -rf $(VENV)/proto && mkdir -p $(VENV)/proto
	$(call protoc,$(VENV)/proto)
	@for file in $(GENERATED); do \
		cmp -s $(VENV)/proto/$$file imgateway/wire/$$file \
			|| { echo "imgateway/wire/$$file is not what proto/ says: make proto" >&2; exit 1; }; \
	done

docs: $(CHECK)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# Without ARGS the whole table, which then replaces docs/performance/table.md.
bench: $(TEST)
	$(BIN)/imgateway bench $(or $(ARGS),table)

soak: $(TEST)
	$(BIN)/imgateway bench soak $(ARGS)

format: $(CHECK)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf $(VENV) build dist *.egg-info docs/_build .coverage .coverage.* htmlcov \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(RUN): setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV) (once) …"
	$(PIP_INSTALL) --editable .
	@touch $@

$(TEST): setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need (once) …"
	$(PIP_INSTALL) --editable '.[test,docs]'
	@touch $@ $(RUN)

$(CHECK): setup.cfg pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the checks need (once) …"
	$(PIP_INSTALL) --editable '.[test,check,docs]'
	@touch $@ $(TEST) $(RUN)
