# Each goal sets up what it needs first: an environment in .venv, then the packages (once per change of
# pyproject.toml or constraints.txt). `make demo` and `make test` are all that a fresh clone needs.
VENV ?= .venv
PY := $(VENV)/bin/python
RESULTS ?= results
MODEL ?= tales
TORCH_PROBE ?= 1
TRITON_VENV ?= .venv-triton
TRITON_SKIP ?= 0
# processes that run the unit tests; each file stays in one of them
JOBS ?= auto
export TORCH_PROBE TRITON_VENV TRITON_SKIP

setup = python=$$(PYTHON="$(PYTHON)" sh tools/find_python.sh) && "$$python" tools/setup_env.py --venv "$(VENV)" --extras $(1)

# compiles the kernels that the lessons use, once, outside of any cell's time limit
warm = $(PY) -m llmlite warmup --lessons

# Files are dealt out whole, so tests of one file still run one after the other, in their order.
parallel = -n $(JOBS) --maxprocesses 4 --dist loadfile

DEMO := plot,torch
TEST := lab,hub,serve,torch,transformers,test

SAMPLES ?= docs/measurements/smollm2/comparison.jsonl

.PHONY: arm-test clients compare-test lm-eval-test tfhub-test triton-test docs wheel dist publish figure check coverage help demo test test-all peers lint lab site notebooks browser-test warmup clean

help:
	@echo "make demo      set up, let the bundled model tell a tale, compare with PyTorch (results in $(RESULTS)/)"
	@echo "make demo MODEL=smollm2  the same with a model that is pulled first (93 MB)"
	@echo "make test      set up, run the unit tests and the notebooks"
	@echo "make test-all  everything: llama.cpp (compiled, minutes), the wheel, the slow tests"
	@echo "make triton-test  a real tritonserver in .venv-triton serves an exported repository (part of test-all)"
	@echo "make arm-test  kernels, quants, engine and model on ARM, emulated (ARM=...: only these test files)"
	@echo "make clients   the server with the clients that people use: openai, ollama, litellm and others"
	@echo "make compare-test  one comparison with llama.cpp's wheel, five of PyTorch and Transformers: all must run"
	@echo "make lm-eval-test  lm-eval asks the server the bundled questions (half a gigabyte of packages)"
	@echo "make tfhub-test  TensorFlow Hub loads an exported SavedModel (two gigabytes of packages)"
	@echo "make peers     compile llama-perplexity, -imatrix and -quantize (minutes), compare with them"
	@echo "make lab       set up, open the lessons in JupyterLab"
	@echo "make site      render the lessons to site/, to read without Python or a network (INSTRUCTOR=1: with solutions)"
	@echo "make notebooks make the lessons' copies from their sources, running them (LESSONS=\"02 05\": only these)"
	@echo "make browser-test  every lesson in a real browser (needs Chromium); pictures in $(RESULTS)/browser"
	@echo "make lint      ruff, mypy, spelling and the words of the house"
	@echo "make check FILE=llmlite/x.py  the tests that belong to a change (several: in quotes)"
	@echo "make coverage  covered lines by room (compiled kernels run outside of what it sees)"
	@echo "make docs      the Python reference and these documents in site-docs/, to read without a network"
	@echo "make wheel     the wheel in dist/, with kernels compiled for the common CPUs (minutes, the first time)"
	@echo "make dist      source distribution and wheel in dist/, their metadata checked"
	@echo "make publish   upload them, if nothing of a release is missing (docs/releasing.md)"
	@echo "make figure    README's figure again, from the samples of benchmarks/main_run.sh"
	@echo "make clean     remove caches and results; .venv stays (rm -r .venv)"
	@echo "PYTHON=... chooses the interpreter, VENV=... the environment, TORCH_PROBE=0 skips PyTorch's CPU index"

# The bundled model by default, and nothing is downloaded; MODEL=smollm2 pulls that one first.
demo:
	@$(call setup,$(DEMO))
ifeq ($(MODEL),tales)
	@echo "--- a tale by the bundled model: 16 bits per weight, then 8.5, then 4.5"
	@$(PY) -m llmlite run tales -n 90 --temperature 0.7 --seed 2
else
	@$(PY) -m llmlite pull $(MODEL)
	@echo "--- a tale by $(MODEL) as it comes, then at 8.5 bits per weight, then at 4.5"
	@$(PY) -m llmlite run $(MODEL) -n 90 --temperature 0.7 --seed 2
endif
	@$(PY) -m llmlite run $(MODEL):Q8_0 -n 90 --temperature 0.7 --seed 2
	@$(PY) -m llmlite run $(MODEL):Q4_0 -n 90 --temperature 0.7 --seed 2
	@echo "--- llmlite beside PyTorch on this machine (about a minute)"
	@$(PY) -m llmlite compare $(MODEL) --quick --output $(RESULTS)

test:
	@$(call setup,$(TEST))
	$(PY) -m pytest -m "not slow and not conformance" $(parallel)
	@$(warm)
	$(PY) -m pytest -p llmlite.nbval --nbval --nbval-current-env --nbval-cell-timeout=120 notebooks/instructor

test-all:
	@$(call setup,$(TEST)$(comma)llamacpp$(comma)xllamacpp$(comma)dask$(comma)browser)
	@test "$(TRITON_SKIP)" = 1 || $(PY) tools/triton_env.py --venv "$(TRITON_VENV)"
	$(PY) -m pytest -m "slow or conformance"
	$(MAKE) clients

# the clients' packages live in a folder of their own: some need older versions than the tests have
clients: $(VENV)/clients/installed
	CLIENTS=required PYTHONPATH="$(VENV)/clients" $(PY) -m pytest tests/conformance/test_serve_clients.py tests/conformance/test_llm_plugin.py tests/serve/test_sagemaker.py

$(VENV)/clients/installed: tests/support/clients.txt
	@$(call setup,$(TEST))
	rm -rf "$(VENV)/clients"
	$(PY) -m pip install --quiet --no-deps --target "$(VENV)/clients" -r tests/support/clients.txt
	@touch $@

# every peer that comes without a compiler, PyTorch's torch.compile excepted; one that doesn't run is a failure
compare-test:
	@$(call setup,$(TEST)$(comma)xllamacpp)
	$(PY) -m pytest tests/bench/test_bench_ci.py

# half a gigabyte of packages, so no other goal needs it
lm-eval-test: $(VENV)/clients/installed $(VENV)/lm-eval/installed
	CLIENTS=required PYTHONPATH="$(VENV)/clients:$(VENV)/lm-eval" $(PY) -m pytest tests/conformance/test_serve_lm_eval.py

$(VENV)/lm-eval/installed: tests/support/lm_eval.txt
	@$(call setup,$(TEST))
	rm -rf "$(VENV)/lm-eval"
	$(PY) -m pip install --quiet --no-deps --target "$(VENV)/lm-eval" -r tests/support/lm_eval.txt
	@touch $@

# TensorFlow takes two gigabytes, so no other goal needs it
tfhub-test: $(VENV)/tfhub/installed
	CLIENTS=required PYTHONPATH="$(VENV)/tfhub" $(PY) -m pytest tests/serve/test_tensorflow_saved.py

$(VENV)/tfhub/installed: tests/support/tfhub.txt
	@$(call setup,$(TEST))
	rm -rf "$(VENV)/tfhub"
	$(PY) -m pip install --quiet --no-deps --target "$(VENV)/tfhub" -r tests/support/tfhub.txt
	@touch $@

# Triton needs an environment of its own; TRITON_SKIP=1 leaves it out of test-all
triton-test:
	@$(call setup,$(TEST))
	$(PY) tools/triton_env.py --venv "$(TRITON_VENV)"
	$(PY) -m pytest tests/conformance/test_triton.py -s

# a 64-bit ARM Python by emulation, in .venv-arm; on an ARM machine the environment itself
ARM ?= $(addprefix tests/,quants/test_quants.py quants/test_quants_machines.py $(addprefix engine/test_,engine.py attention.py simd.py \
	same_bits_machines.py deterministic.py model_planned.py) models/test_model.py)
arm-test:
	@$(call setup,$(TEST))
	$(PY) tools/arm_env.py --folder .venv-arm
	LLMLITE_CACHE="$(CURDIR)/.venv-arm/cache" PYTHONPATH="$(CURDIR)" .venv-arm/python -m pytest -q \
		-m "not slow and not conformance" -p no:cacheprovider $(ARM)

# llama.cpp's programs take minutes to compile, so no other goal needs them
peers:
	@$(call setup,$(TEST))
	bin=$$($(PY) tools/build_llama_cpp.py $(VENV)/llama.cpp) && \
	LLAMA_CPP_BIN="$$bin" $(PY) -m pytest tests/conformance/test_programs_llama_cpp.py

lint:
	@$(call setup,dev)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/check_terms.py
	$(PY) -m codespell_lib README.md CONTRIBUTING.md docs llmlite

# the tests that a change of FILE can break: those that import it or name it, and the layout
check:
	@$(call setup,$(TEST)$(comma)dev)
	$(PY) -m ruff check $(filter %.py,$(FILE))
	$(PY) tools/check_terms.py
	$(PY) -m pytest -m "not slow and not conformance" $$($(PY) tools/tests_of.py $(FILE))

coverage:
	@$(call setup,$(TEST))
	$(PY) -m coverage run --source llmlite -m pytest -q -m "not slow and not conformance"
	$(PY) tools/tests_of.py --coverage

# the reference in site-docs/, to read without a network
docs:
	@$(call setup,docs)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet
	@echo "site-docs/index.html"

# The wheel in dist/, with the kernels compiled for every level of llmlite/engine/shipped.py (Linux; about four
# minutes on two cores). What was compiled is kept in build/kernels and used again until a source changes.
wheel:
	@$(call setup,dist)
	$(PY) tools/compile_kernels.py --out build/kernels
	LLMLITE_WHEEL_KERNELS="$(CURDIR)/build/kernels" $(PY) -m build --wheel --outdir dist

# sdist and wheel in dist/, and nothing else there, their metadata checked
dist:
	@$(call setup,dist)
	rm -rf dist
	$(MAKE) wheel
	$(PY) -m build --sdist --outdir dist
	$(PY) -m twine check --strict dist/*
	@$(PY) tools/check_release.py --warn

# refuses a release without public addresses, a version with its date, or a tag: see docs/releasing.md
publish:
	@$(call setup,dist)
	$(PY) tools/check_release.py
	$(MAKE) dist
	$(PY) -m twine upload dist/*

lab:
	@$(call setup,lab$(comma)torch)
	$(PY) -m llmlite lab lessons

site:
	@$(call setup,lab$(comma)test)
	$(PY) tools/render_site.py --out site $(if $(INSTRUCTOR),--instructor)

notebooks:
	@$(call setup,$(TEST))
	@$(warm)
	$(PY) tools/lessons.py $(LESSONS)

browser-test:
	@$(call setup,$(TEST)$(comma)browser)
	@$(warm)
	$(PY) tests/browser/round.py --out $(RESULTS)/browser $(LESSONS)

# README's figure and the tables beside it, drawn from what benchmarks/main_run.sh measured
figure:
	@$(call setup,plot)
	$(PY) -m llmlite compare --from $(SAMPLES) -o docs/figures

warmup:
	@$(call setup,$(DEMO))
	@$(warm)

clean:
	rm -rf $(RESULTS) .pytest_cache .mypy_cache .ruff_cache .hypothesis dist site-docs
	find . -name __pycache__ -type d -not -path "./$(VENV)/*" -prune -exec rm -rf {} +

comma := ,
