# Every target sets up what it needs in .venv first: a bare clone needs only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m
# a half-made environment (no pip: python3-venv was missing) or one of an older Python is made anew
RECENT := import sys; sys.exit(sys.version_info < (3, 11))
USABLE := import pip; $(RECENT)

.PHONY: install test lint reproduce docs clean help
.DEFAULT_GOAL := help

help:
	@echo "make install     virtual environment in $(VENV) with the tested versions"
	@echo "make test        set-up, then all tests and doctests"
	@echo "make lint        set-up, then ruff and mypy"
	@echo "make reproduce   set-up, then the main job: results/digits/report.html"
	@echo "make docs        set-up, then the pages under docs/ from the docstrings and tables"
	@echo "PYTHON=python3.12 behind any of them: the Python that the environment is made with (3.11 or newer)"

install: $(STAMP)

# All extras: other people's code is what the tests compare with. PYTHONPATH is emptied so that pip looks at the new
# environment alone.
$(STAMP): pyproject.toml setup.py constraints.txt
	@$(VENV)/bin/python -c '$(USABLE)' 2>/dev/null || $(PYTHON) -c '$(RECENT)' || { \
		echo "wanted Python 3.11 or newer; $(PYTHON) is older or not there; name one: make $(MAKECMDGOALS) PYTHON=python3.12"; \
		exit 1; }
	$(VENV)/bin/python -c '$(USABLE)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	PYTHONPATH= $(VENV)/bin/pip install -c constraints.txt -e '.[test,nwb,onnx,peers,tables]'
	touch $@

# one thread per test process: the processes are the parallelism, and sums do not depend on the machine's core count
test: $(STAMP)
	OMP_NUM_THREADS=1 $(RUN) pytest -n $(WORKERS) --dist loadfile

lint: $(STAMP)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

reproduce: $(STAMP)
	$(VENV)/bin/featattn run analyses/configs/digits.yaml --out results/digits

docs: $(STAMP)
	$(VENV)/bin/python docs/make_reference.py

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
