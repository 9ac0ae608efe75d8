# Two commands matter: `make demo` (the whole way on a synthetic home, offline) and `make test`.
PYTHON ?= python3
VENV   ?= .venv
RUN     = $(VENV)/bin/python
STAMP   = $(VENV)/.installed
EXTRAS  = dev,llm,minilm,onnx,space,tracking

.PHONY: install latest demo test results release-check fault-tests peer-tests house lint format types lock bench clean

install: $(STAMP)          ## make .venv, install the pinned dependencies and casita; quick when nothing changed

$(STAMP): requirements.lock pyproject.toml
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

latest:                    ## the newest versions that pyproject.toml allows, in place of the locked ones; `make test` then takes these
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy eager --editable '.[$(EXTRAS)]'
	touch $(STAMP)

demo: install              ## raw log -> trained, evaluated, reloaded model, with no network
	$(RUN) -m casita.cli demo --out demo

test: install              ## the test suite; CASITA_DATA=FOLDER adds the tests on real homes
	$(RUN) -m pytest --numprocesses auto --dist loadfile

results: install           ## the tables of docs/RESULTS.md, but that of speed, from the raw logs in CASITA_DATA; hours, and it goes on where it stopped
	$(RUN) -m casita.train.experiments.results --data $${CASITA_DATA:?the folder of raw logs} --work $${CASITA_RESULTS:-results}

fault-tests: install       ## the tests with faults at many more moments: stages and runs killed, disks full; minutes
	CASITA_FAULT_ROUNDS=$${CASITA_FAULT_ROUNDS:-30} $(RUN) -m pytest tests/datasets_scripts/test_stage_faults.py tests/datasets_scripts/synthetic/test_dataset.py

release-check: install     ## the walk of docs/RELEASING.md: train, push to a Hub of our own, use in a fresh environment; ten minutes
	PYTHONPATH=tests/helpers $(RUN) tests/system/release_check.py

peer-tests: install        ## transformers' own common tests on our classes; needs the network once, takes minutes
	$(RUN) tests/peer/run.py

house:                     ## the packages, their sizes, and the arrows between them
	$(PYTHON) -m tests.packages

lint: install types        ## ruff (lint and format) and mypy
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

types: install
	$(RUN) -m mypy -p casita

format: install            ## let ruff rewrite the layout of the code
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: install             ## speed and memory of the data stages and of the feeding on this machine; ten minutes
	$(RUN) -m casita.datasets_scripts.benchmarks.stages read
	$(RUN) -m casita.datasets_scripts.benchmarks.stages windows
	$(RUN) -m casita.datasets_scripts.benchmarks.stages captions
	$(RUN) -m casita.datasets_scripts.benchmarks.stages draw
	$(RUN) -m casita.datasets_scripts.benchmarks.stages encode
	$(RUN) -m casita.datasets_scripts.benchmarks.stages scale --events 1e6
	$(RUN) -m casita.train.benchmarks.loader_speed

lock: install              ## write requirements.lock anew from pyproject.toml
	$(RUN) -m pip install --quiet pip-tools
	$(RUN) -m piptools compile --quiet --strip-extras --extra $(EXTRAS) --no-emit-find-links --no-emit-index-url --no-header --no-annotate --allow-unsafe \
	  --output-file requirements.lock pyproject.toml
	sed -i "s/^torch==\(.*\)+cpu$$/torch==\1/" requirements.lock   # a CPU build here must not bind others to it

clean:                     ## everything that git ignores
	rm -rf $(VENV) build demo .pytest_cache .ruff_cache .mypy_cache *.egg-info
