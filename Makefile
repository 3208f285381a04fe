# What a person types. Everything is installed into .venv by the project's own files.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
THREADS := $(shell nproc 2>/dev/null || echo 2)

.PHONY: help demo test lint bench docs clean
help:
	@echo "make demo   install and run the demo (trains, registers, draws demo/figure.png)"
	@echo "make test   install and run every test"
	@echo "make lint   ruff and mypy"
	@echo "make bench  install the peers, prove gradients and speed, write bench/results/ and docs/ (12 minutes)"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: a bare `torch` would fetch gigabytes of CUDA on a CPU machine.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	@touch $@

SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*.* csrc/*/*.*)

$(VENV)/.demo: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install -q -c constraints.txt -e '.[test,demo]'
	@touch $@

$(VENV)/.bench: $(VENV)/.torch $(SOURCES)
	$(BIN)/pip install -q -c constraints.txt -e '.[bench,test]'
	-$(BIN)/pip install -q --no-deps fireants  # it asks for an older SimpleITK than there are wheels for
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/fastreg demo --output demo

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(BENCH_ARGS)

clean:
	rm -rf $(VENV) build demo
