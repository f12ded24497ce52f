# Every target sets up what it needs in .venv first: a bare clone needs only Python 3.11+ and make.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
STAMP := $(VENV)/.installed
RUN := $(VENV)/bin/python -m

.PHONY: install test lint reproduce docs clean help
.DEFAULT_GOAL := help

help:
	@echo "make install     virtual environment in $(VENV) with the tested versions"
	@echo "make test        set-up, then all tests and doctests"
	@echo "make lint        set-up, then ruff and mypy"
	@echo "make reproduce   set-up, then the main job: results/digits/report.html"
	@echo "make docs        set-up, then the pages under docs/ from the docstrings and tables"

install: $(STAMP)

# All extras: other people's code is what the tests compare with. PYTHONPATH is emptied so that pip looks at the new
# environment alone.
$(STAMP): pyproject.toml setup.py constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	PYTHONPATH= $(VENV)/bin/pip install -c constraints.txt -e '.[test,nwb,onnx,peers]'
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
