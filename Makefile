# `make` lists the commands. Needed beforehand: git, make and Python 3.11, 3.12 or 3.13 with its venv module.

CORES ?= 4
VENV := .venv
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONUNBUFFERED := 1

.PHONY: help demo table1 table2 all paper base-models scout test test-all test-slurm lint format bench clean distclean
.DELETE_ON_ERROR:

help:
	@echo "make demo         a poisoned file is made and cleaned: results/demo/report.html, a page with pictures (3 minutes)"
	@echo "make table1       results/table1.csv: CP and ASR of every defence, beside the paper's (CORES=4)"
	@echo "make table2       results/table2.csv: precision, recall and F1 of BYE, beside the paper's"
	@echo "make all          every table and figure (long); make paper adds report.html, index.html and docs/results.md"
	@echo "make base-models  pre-train the mini base models from scratch into results/base_models (long)"
	@echo "make scout        the scout, a model of laptop size of real parts (180 MB of download), into results/base_models/scout"
	@echo "make test         the tests; make test-all adds the slow ones, test-slurm a real SLURM"
	@echo "make bench        speed of the attention extraction against a plain forward and the authors' way"
	@echo "make lint         ruff, snakefmt and snakemake --lint; make format rewrites"
	@echo "make clean        remove results/ and Snakemake's records; make distclean removes .venv too"

# The first Python that the lock was made for, in a fresh environment with the pinned packages and this project, editable.
$(INSTALLED): requirements.lock pyproject.toml
	@for python in python3.11 python3 python3.12 python3.13 python; do \
		"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && found="$$python" && break; \
	done; \
	if [ -z "$$found" ]; then \
		echo "bye: error: no Python 3.11, 3.12 or 3.13 found; install one with its venv module and run make again" >&2; exit 2; \
	fi; \
	if [ -L $(VENV) ]; then \
		echo "bye: error: $(VENV) is a link, and what it leads to would be emptied; remove the link and run make again" >&2; exit 2; \
	fi; \
	echo "Installing into $(VENV) with $$found (once; a few minutes)"; \
	"$$found" -m venv --clear $(VENV)
	python -m pip install --disable-pip-version-check --no-compile --requirement requirements.lock
	python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@echo "Compiling what the jobs import"
	@python -m compileall -q bye
	@PYTHONDONTWRITEBYTECODE= python -c "import bye.server, pytest, snakemake.cli; bye.server.load()"
	@touch $(INSTALLED)

# Of a run, one line that is rewritten; `snakemake` itself says more.
demo table1 table2 all paper base-models scout: export BYE_WATCH := 1

DEMO := results/data/scienceqa/badnet/s0
demo: $(INSTALLED)
	snakemake --cores $(CORES) $(DEMO)/train.json
	bye clean --model llava-mini --data $(DEMO)/train.json --images $(DEMO)/images --out results/demo --cores $(CORES)
	@echo "The page to open: results/demo/report.html"

table1 table2: $(INSTALLED)
	snakemake --cores $(CORES) results/$@.csv

all: $(INSTALLED)
	snakemake --cores $(CORES)

paper: all
	snakemake --report results/report.html
	python -m bye results-page --facts "commit $$(git rev-parse --short HEAD)" "$$(nproc) cores"
	python -m bye run-page --facts "commit $$(git rev-parse --short HEAD)" "$$(nproc) cores"

base-models: $(INSTALLED)
	snakemake --cores $(CORES) base_models

scout: $(INSTALLED)
	snakemake --cores $(CORES) --configfile config/scout.yaml -- results/base_models/scout/config.json

test: $(INSTALLED)
	OMP_NUM_THREADS=1 pytest --numprocesses logical --dist loadfile

test-all: $(INSTALLED)
	pytest -m "not slurm"

test-slurm: $(INSTALLED)
	python -m pip install --quiet --disable-pip-version-check snakemake-executor-plugin-slurm
	pytest -m slurm

bench: $(INSTALLED)
	python -m bye bench

lint: $(INSTALLED)
	ruff check .
	snakefmt --check Snakefile rules
	snakemake --lint

format: $(INSTALLED)
	ruff check --fix .
	ruff format .
	snakefmt Snakefile rules

clean:
	rm -rf results .snakemake

distclean: clean
	rm -rf $(VENV)
