# make quickstart · make test · make bench: each sets up .venv itself when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Extras that a target needs; `make test` installs them all.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
# The pinned releases need Python 3.11; on 3.10 pip takes the newest that fit setup.cfg's ranges.
CONSTRAINTS := $(shell $(PYTHON) -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')

.PHONY: quickstart test bench setup clean

quickstart: .venv/.installed
	$(BIN)/visionsam quickstart

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/.installed
	@ls benchmarks/*.py >/dev/null 2>&1 && for script in benchmarks/*.py; do $(BIN)/python $$script --short || exit 1; done || echo "benchmarks/: none yet"

setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "setting up .venv (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" $(CONSTRAINTS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . $(CONSTRAINTS)
	@touch $@

.venv/.installed-test: .venv/.installed
	@echo "adding what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,annotate]" $(CONSTRAINTS)
	@touch $@

clean:
	rm -rf .venv build *.egg-info
