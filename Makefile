# make demo      run the workflow on the miniature world, from scenes to report (about 5 minutes)
# make test      run the fast tests
# make docs      build the documentation site in site/
# make bench     measure the cost of a training step on this machine and update the tables
# make identity  compare all results of the miniature with those of another commit
# Each target first creates the environment in .venv; Python and pip are enough.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/.venv/bin:$(PATH)
STAMP := .venv/installed-$(shell cat requirements.lock pyproject.toml 2>/dev/null | cksum | cut -d' ' -f1)
SLURM_PROFILES ?= $(HOME)/.config/snakemake

.PHONY: demo test slow-test bench identity docs lint format lock envs config slurm-profile venv clean

demo: venv
	$(BIN)/snakemake --cores 2
	@echo "Done: open results/miniature/report/index.html"

venv: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 14) else "fineclip needs Python 3.11 to 3.14, and $(PYTHON) is %d.%d: name another with make PYTHON=..." % v)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements.lock)"
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f .venv/installed-* && touch $@

# PYTEST="..." adds options of pytest.
test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(PYTEST)

slow-test: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile $(PYTEST)

# About 20 minutes on two cores. BENCH="--images FOLDER" uses your photographs.
bench: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(BENCH)

# make identity BASE=<commit>: run the miniature of BASE and of HEAD in fresh clones (about 10 minutes on two cores)
# and compare every packed sample, every model.safetensors and all scores.
identity: venv
	$(BIN)/python -m tests.identity $(or $(BASE),$(error make identity BASE=<commit>))

docs: venv
	$(BIN)/zensical build --clean --strict

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pydoclint fineclip benchmarks tools envs tests
	$(BIN)/codespell
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check workflow
	$(BIN)/snakemake --lint
	$(BIN)/fineclip config config.yaml

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt workflow

# Update all pins. The lock names no index.
lock: venv
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --upgrade --no-header --no-annotate --quiet --output-file requirements.lock pyproject.toml
	$(MAKE) envs

envs: venv
	$(BIN)/python envs/from_lock.py

# Write the JSON schema and the reference page of all keys from the models in fineclip/config.
config: venv
	$(BIN)/fineclip config config.yaml --schema workflow/config.schema.json --reference docs/configuration.md

slurm-profile:
	mkdir -p "$(SLURM_PROFILES)/slurm"
	cp workflow/profiles/slurm/config.yaml "$(SLURM_PROFILES)/slurm/config.yaml"
	@echo "Fill in slurm_account and slurm_partition in $(SLURM_PROFILES)/slurm/config.yaml, then: snakemake --profile slurm"

clean:
	rm -rf data/miniature results/miniature logs site .snakemake
