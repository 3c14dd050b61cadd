# Everything that a checkout can do. Needs git, make, g++ and Python 3.10 or newer with venv and
# headers (Debian 12: python3-venv, python3-dev); the rest is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# CMake, Ninja and the formatters come from the environment, not from the system.
IN_VENV := PATH="$(CURDIR)/$(BIN):$$PATH"
CPP := $(wildcard csrc/*.cpp csrc/*.h csrc/tests/*.cpp csrc/tests/*.h csrc/fuzz/*.cpp)
SCRIPTS := $(wildcard benchmarks/*.py packaging/*.py)
FUZZ_SECONDS ?= 60
# What `make wheels` builds for: x86_64 or aarch64, and Pythons by version, all where empty.
ARCH ?= x86_64
PYTHONS ?=
SAY := @printf '==> %s\n'

.DEFAULT_GOAL := help
.PHONY: help venv install quickstart test test-long lint format typecheck test-cpp fuzz wheel wheels
.PHONY: clean

help: ## Show this list
	@printf 'Usage: make TARGET\n\n'
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1|\2/' \
	  | while IFS='|' read -r target text; do printf '%-13s %s\n' "$$target" "$$text"; done

$(BIN)/python:
	$(SAY) 'Making a virtual environment in $(VENV)'
	$(PYTHON) -m venv $(VENV)

venv: $(BIN)/python ## Make a virtual environment in .venv

$(INSTALLED): pyproject.toml CMakeLists.txt requirements/ci.txt $(CPP) | $(BIN)/python
	$(SAY) 'Installing VoxFormer with all that a CPU machine uses into $(VENV)'
	$(BIN)/python -m pip install --constraint requirements/ci.txt --editable '.[all,dev]'
	@touch $@

install: $(INSTALLED) ## Install VoxFormer and its tools into .venv, editable
	$(SAY) 'Installed; run $(BIN)/voxformer --help'

quickstart: $(INSTALLED) ## Make speech, train, evaluate, export and decode, in minutes
	$(SAY) 'Running the whole path on synthetic speech'
	$(BIN)/voxformer quickstart

test: $(INSTALLED) ## Run the tests that take seconds
	$(SAY) 'Running the tests; make test-long runs the slow ones too'
	$(BIN)/python -m pytest -m 'not slow'

test-long: $(INSTALLED) ## Run every test
	$(SAY) 'Running every test'
	$(BIN)/python -m pytest

lint: $(INSTALLED) ## Check style and formatting of Python and C++
	$(SAY) 'Checking style with ruff and clang-format'
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(INSTALLED) ## Format Python and C++
	$(SAY) 'Formatting with ruff and clang-format'
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The package as it is when installed: export/ stands beside voxformer/ and is a part of it, which a
# type checker cannot know.
typecheck: $(INSTALLED) ## Check the types of the package, the benchmarks and the scripts
	$(SAY) 'Checking types with mypy'
	@rm -rf build/typecheck && mkdir -p build/typecheck/voxformer
	@ln -s $(CURDIR)/voxformer/* build/typecheck/voxformer/
	@ln -s $(CURDIR)/export build/typecheck/voxformer/export
	MYPYPATH=build/typecheck $(BIN)/mypy -p voxformer
	MYPYPATH=build/typecheck $(BIN)/mypy $(SCRIPTS)

test-cpp: $(INSTALLED) ## Run the C++ tests under ASan and UBSan
	$(SAY) 'Building and running the C++ tests with sanitizers'
	$(IN_VENV) cmake --preset asan
	$(IN_VENV) cmake --build --preset asan
	$(IN_VENV) ctest --preset asan

fuzz: $(INSTALLED) ## Feed the decoder and the language model arbitrary bytes (needs clang)
	$(SAY) 'Fuzzing each target for $(FUZZ_SECONDS) s, with sanitizers'
	$(IN_VENV) cmake --preset fuzz
	$(IN_VENV) cmake --build --preset fuzz
	@for target in decoder language_model; do \
	  mkdir -p build/fuzz/corpus/$$target && \
	  build/fuzz/fuzz_$$target -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -verbosity=0 \
	    -print_final_stats=1 -artifact_prefix=build/fuzz/ build/fuzz/corpus/$$target || exit 1; \
	done

wheel: $(INSTALLED) ## Build a wheel into dist/
	$(SAY) 'Building a wheel into dist/'
	$(BIN)/python -m build --wheel --outdir dist

# pip finds VoxFormer installed, and adds what the extra names.
$(VENV)/.wheels: $(INSTALLED)
	$(SAY) 'Installing Zig and auditwheel into $(VENV)'
	$(BIN)/python -m pip install --constraint requirements/ci.txt 'voxformer[wheels]'
	@touch $@

wheels: $(VENV)/.wheels ## Build and check manylinux wheels for every Python into dist/manylinux/
	$(SAY) 'Building manylinux2014 wheels for $(ARCH) into dist/manylinux/'
	$(BIN)/python packaging/wheels.py --arch $(ARCH) $(if $(PYTHONS),--python $(PYTHONS))

clean: ## Remove what was built, but not .venv
	rm -rf build dist
