# `make demo` and `make test` set everything up in .venv by themselves; nothing else has to be installed but Python >= 3.11,
# its venv module, and a C++ compiler. Once set up, both work offline.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH_INDEX ?=
PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
SOURCES := pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)

.PHONY: demo test check bench kernels-bench quality-bench frontier docs sanitize clean

demo: $(VENV)/.ready
	$(BIN)/gossamer demo

test: $(VENV)/.ready-dev check
	$(BIN)/pytest

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc -name '*.cpp' -o -name '*.h')
	$(BIN)/mypy
	$(BIN)/lint-imports

GGML_FLAGS ?= AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16
LLAMA_CPP = CMAKE_ARGS="-DGGML_NATIVE=OFF $(foreach flag,$(GGML_FLAGS),-DGGML_$(flag)=ON)" $(PIP) ".[bench]"
# llama-cpp-python is built from source without AMX flags: with them it can die of an illegal instruction.
bench: $(VENV)/.ready
	$(LLAMA_CPP)
	$(BIN)/python benchmarks/engine.py

frontier: $(VENV)/.ready
	$(LLAMA_CPP)
	$(BIN)/python benchmarks/frontier.py

kernels-bench: $(VENV)/.ready
	$(BIN)/python benchmarks/products.py

quality-bench: $(VENV)/.ready
	$(BIN)/python benchmarks/quality.py

# The C++ test of the engine, at every instruction set, under the address sanitizer (and the undefined one, over everything but the kernels).
sanitize:
	cmake -S . -B build/sanitized -DGOSSAMER_SANITIZE=ON
	cmake --build build/sanitized --target engine_test
	build/sanitized/engine_test 10000

docs: $(VENV)/.ready
	$(BIN)/python scripts/command_reference.py

$(VENV)/.ready: $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist
