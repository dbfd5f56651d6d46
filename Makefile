# What a person types. Each target sets up what it needs first: see deploy/setup.sh and deploy/packages.txt.
# ARGS goes to the program: make demo ARGS="--hypervisor process", make test ARGS="tests/unit -k lease",
# make bench ARGS="rpc --quick".
SHELL := /bin/bash
PYTHON := .venv/bin/python
ARGS :=

#: Tests that need neither a server nor a guest, nor much time.
QUICK := -m "not service and not qemu and not slow" tests/unit tests/contract

#: Three at a time, each a file at a time: most tests wait for a process or a disk, and a file shares what it has started.
#: make test SIDE_BY_SIDE= runs one after the other.
SIDE_BY_SIDE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo check test long peers lint bench clean

help:
	@echo "make demo   the whole system on this machine: four physics jobs in two virtual machines"
	@echo "make check  ruff, mypy and the quick tests that need no service: in a minute, at every step"
	@echo "make test   every check: ruff, mypy, pytest"
	@echo "make long   what takes minutes: chaos, floods, big files"
	@echo "make peers  programs of others that speak with ours"
	@echo "make bench  ours beside its peers: rpc, jobs, transfer, tree, exec, vm, link, boinc, grids; and how the ledger grows"
	@echo "make lint   ruff and mypy alone"
	@echo "make setup  Debian packages and .venv for the demo, and nothing else"
	@echo "make clean  remove what the targets made in this directory"

setup:
	@deploy/setup.sh demo

demo:
	@began=$$(date +%s.%N); deploy/setup.sh demo && exec $(PYTHON) -m volcloud.demo --began $$began $(ARGS)

check:
	@deploy/setup.sh test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file tests/mypy.ini tests
	$(PYTHON) -m pytest -q $(SIDE_BY_SIDE) --durations=5 $(QUICK) $(ARGS)

test:
	@deploy/setup.sh test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file tests/mypy.ini tests
	$(PYTHON) -m pytest $(SIDE_BY_SIDE) --durations=20 $(ARGS)

long:
	@deploy/setup.sh test
	$(PYTHON) -m pytest --durations=20 --timeout=3600 -m long tests/long $(ARGS)

peers:
	@deploy/setup.sh peers
	$(PYTHON) -m pytest --durations=20 --timeout=3600 -m peers tests/peers $(ARGS)

lint:
	@deploy/setup.sh test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy --config-file tests/mypy.ini tests

bench:
	@deploy/setup.sh bench && exec $(PYTHON) -m benchmarks $(ARGS)

clean:
	rm -rf .venv .cache build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
