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
	@mkdir -p outputs && rm -f outputs/bench.jsonl
	@for script in encode decoder_step epoch memory scaling; do \
		$(BIN)/python benchmarks/$$script.py --short --repeats 3 >> outputs/bench.jsonl || exit 1; done
	@cat outputs/bench.jsonl && $(BIN)/python benchmarks/table.py outputs/bench.jsonl

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
