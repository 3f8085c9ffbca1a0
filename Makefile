# Two commands, each doing all its own set-up on a fresh machine (Python 3.11+ with venv; a C++ compiler makes it fast):
#   make demo   search on digits, derive a cell, train and test it, report; some minutes, most of them to install
#   make test   everything that can be tested without a GPU

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The combination that is tested; any torch from 2.11 on is meant to work.
TORCH := torch==2.14.1 torchvision==0.29.1

# On a terminal pip shows the progress of its downloads, elsewhere it says nothing.
QUIET := $(shell test -t 2 || echo --quiet)

NATIVE := '*.cpp' '*.h' '*.cu'

.PHONY: install demo test docs fuzz sanitize gpu lint format

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
	@test -x $(BIN)/python || { echo "[1/3] making the environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "[2/3] installing $(TORCH): a download of up to some gigabytes, then minutes of unpacking"
	@$(BIN)/python -m pip install $(QUIET) $(TORCH) "setuptools>=77" ninja
	@echo "[3/3] compiling the kernels and installing the tools: about two minutes on two cores, longer with CUDA_HOME"
	@$(BIN)/python -m pip install $(QUIET) --no-build-isolation --editable ".[dev]"
	@touch $@
	@$(BIN)/fastdarts info | head -n 1

demo: $(INSTALLED)
	@run=runs/demo-$$(date +%Y%m%d-%H%M%S); set -e; \
	echo "== 1. search for a cell on the 1,797 digits of scikit-learn: a minute or two"; set -x; \
	$(BIN)/fastdarts search --dataset digits --epochs 5 --channels 8 --layers 5 --run $$run/search; { set +x; } 2>/dev/null; \
	echo "== 2. train a network of this cell from scratch, and test it: a minute or two"; set -x; \
	$(BIN)/fastdarts evaluate --dataset digits --genotype $$run/search/genotype.json --epochs 10 --channels 16 --layers 5 \
	    --cutout 0 --drop-path-prob 0 --run $$run/evaluate; { set +x; } 2>/dev/null; \
	echo; $(BIN)/python examples/demo_result.py $$run

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files $(NATIVE))

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files $(NATIVE))

test: lint
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -rs -n 2 --dist loadfile

# The pages that are written from code and results, and the site in build/site.
docs: $(INSTALLED)
	$(BIN)/python -m tests.support.reference_pages --write
	$(BIN)/python -m benchmarks.page --write
	$(BIN)/python -m mkdocs build

# The same property-based tests as `make test`, with 100 times as many inputs, and every place where a run can be killed.
fuzz: $(INSTALLED)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -rs -n 2 --dist loadfile --hypothesis-profile=many \
	    --hypothesis-show-statistics tests/fuzz

# The kernels' tests on every instruction set of this machine with every array between closed gaps (needs gcc and cmake);
# the first report ends it, and what nobody has written is NaN.
sanitize: $(INSTALLED)
	cmake -S . -B build/sanitize -DFASTDARTS_SANITIZE=ON -DPython3_EXECUTABLE=$(abspath $(BIN))/python
	cmake --build build/sanitize --parallel 1
	@isas=$$($(BIN)/python -c "from fastdarts import _C; print(*_C.isas())") || exit 1; \
	for isa in $$isas; do \
	    echo "sanitized: $$isa"; \
	    OMP_WAIT_POLICY=PASSIVE FASTDARTS_ISA=$$isa UBSAN_OPTIONS=print_stacktrace=1 \
	    ASAN_OPTIONS=detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255 \
	    LD_PRELOAD=$$(for name in asan ubsan stdc++; do $(CXX) -print-file-name=lib$$name.so; done | paste -sd:) \
	    $(BIN)/python -m pytest -q --capture=sys -p tests.support.sanitized \
	    -k "not reference and (native or not test_kinks)" \
	    $(foreach op,mixed_op interleave mixed_sum flat recurrent,tests/kernels/$(op)/test_$(op).py) \
	    tests/kernels/test_result_memory.py tests/nn/fusion/test_kinks.py || exit 1; \
	done

# What is to be known of the GPU of this machine, in eight minutes; REHEARSE=1 goes the same way on the CPU.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu $(if $(REHEARSE),--rehearse)
