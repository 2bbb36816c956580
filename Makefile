# `make demo` and `make test` set everything up in .venv by themselves; nothing else has to be installed but Python >= 3.11,
# its venv module, and a C++ compiler. Once set up, both work offline.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
# The versions of all that is installed. A line is a limit, not a wish: what nothing depends on is not installed.
VERSIONS := requirements.lock
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c $(VERSIONS) $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# The build of torch that the figures in docs/benchmarks were made with. On Linux the registry's wheel brings CUDA along;
# `make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu` takes the much smaller CPU build.
TORCH := torch==2.13.0
BUILD_TOOLS := scikit-build-core nanobind cmake ninja
SOURCES := pyproject.toml $(VERSIONS) CMakeLists.txt $(shell find csrc -type f)
# Two processes share the tests; each computes on one thread.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadgroup $(PYTEST_FLAGS)

.PHONY: demo test test-newest test-oldest test-arm arm-wheel vocabularies check lock bench kernels-bench quality-bench frontier docs sanitize clean

demo: $(VENV)/.ready
	$(BIN)/gossamer demo

test: check
	$(PYTEST)

# llama.cpp's own test of tokenizers: 76 MB once, into the cache of the demo. Without it `make test` skips that test and says so.
vocabularies: $(VENV)/.ready-dev
	$(BIN)/python -m tests.checkpoint.vocabularies

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.cpp' -o -name '*.h')
	$(BIN)/mypy
	$(BIN)/lint-imports

# The same with the newest and with the lowest versions that pyproject.toml allows, torch excepted, whose builds are gigabytes.
test-newest:
	rm -rf .venv-newest
	mkdir -p build && echo $(TORCH) > build/newest.txt
	$(MAKE) test VENV=.venv-newest VERSIONS=build/newest.txt PYTEST_FLAGS=--unlocked

test-oldest:
	rm -rf .venv-oldest
	mkdir -p build && { echo $(TORCH); $(PYTHON) scripts/oldest_versions.py; } > build/oldest.txt
	$(MAKE) test VENV=.venv-oldest VERSIONS=build/oldest.txt PYTEST_FLAGS=--unlocked

# The C++ tests for 64-bit ARM, in an emulator; skipped, and says so, without the tools. ARM_FLAGS=--required fails instead.
test-arm: $(VENV)/.ready
	PATH=$(abspath $(BIN)):$$PATH scripts/test_arm.sh $(ARM_FLAGS)

# A wheel for 64-bit ARM, cross-compiled for the version of Python that runs here; needs g++-aarch64-linux-gnu.
arm-wheel: $(VENV)/.ready
	CMAKE_TOOLCHAIN_FILE=$(abspath csrc/aarch64.cmake) _PYTHON_HOST_PLATFORM=linux-aarch64 \
	  SETUPTOOLS_EXT_SUFFIX=$$($(BIN)/python -c "import sys; print('.cpython-%d%d-aarch64-linux-gnu.so' % sys.version_info[:2])") \
	  $(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir dist .

# The lock, made anew: the newest versions that pyproject.toml allows and that fit each other, on every Python and system.
lock:
	$(PYTHON) -m venv build/uv
	build/uv/bin/pip install --quiet --disable-pip-version-check uv
	printf '%s\n' $(BUILD_TOOLS) $(TORCH) | build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --all-extras --no-annotate \
	  --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml -

# llama.cpp is built from source once, into the cache of the demo (10 minutes of 2 cores). Stopped runs go on where they were.
# QUIET is put before each round: a command that keeps the machine quiet while it runs another one. FLAGS=--fresh forgets old rounds.
bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.engine --through "$(QUIET)" $(FLAGS)

frontier: $(VENV)/.ready
	$(BIN)/python -m benchmarks.frontier --through "$(QUIET)" $(FLAGS)

kernels-bench: $(VENV)/.ready
	$(BIN)/python benchmarks/products.py

quality-bench: $(VENV)/.ready
	$(BIN)/python benchmarks/quality.py

# The C++ tests, at every instruction set, under the address sanitizer (and the undefined one, over everything but the kernels).
sanitize:
	cmake -S . -B build/sanitized -DGOSSAMER_SANITIZE=ON
	cmake --build build/sanitized
	build/sanitized/products_test
	build/sanitized/rows_test
	build/sanitized/engine_test 10000

docs: $(VENV)/.ready
	$(BIN)/python scripts/command_reference.py

# The C++ is built with the locked tools of the environment, not with whatever an isolated one would fetch.
$(VENV)/.ready $(VENV)/.ready-dev: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(BUILD_TOOLS)
	$(PIP) --no-build-isolation --editable ".$(if $(findstring dev,$@),[dev])"
	@touch $(VENV)/.ready $@

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest build dist
