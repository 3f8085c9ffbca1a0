# Two commands, each doing all its own set-up on a fresh machine (Python 3.11+ with venv; a C++ compiler makes it fast):
#   make demo   search on digits, derive a cell, train and test it, report
#   make test   everything that can be tested without a GPU

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The combination that is tested; any torch from 2.11 on is meant to work.
TORCH := torch==2.14.1 torchvision==0.29.1

NATIVE := '*.cpp' '*.h' '*.cu'

.PHONY: install demo test fuzz sanitize gpu lint format

install: $(INSTALLED)

$(INSTALLED): pyproject.toml setup.py $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH) "setuptools>=77" ninja
	@echo "compiling the native kernels, which takes two minutes on two processors and longer on old ones"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(INSTALLED)
	@run=runs/demo-$$(date +%Y%m%d-%H%M%S); set -ex; \
	$(BIN)/fastdarts search --dataset digits --epochs 5 --channels 8 --layers 5 --run $$run/search; \
	$(BIN)/fastdarts evaluate --dataset digits --genotype $$run/search/genotype.json --epochs 10 --channels 16 --layers 5 \
	    --cutout 0 --drop-path-prob 0 --run $$run/evaluate; \
	set +x; echo "search report      $$run/search/report.html"; echo "evaluation report  $$run/evaluate/report.html"

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
