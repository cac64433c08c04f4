# Everything that a checkout needs, from nothing; see `make help`.

PYTHON ?= python3
DURATION ?= 10
ARGS ?=

SHELL := /bin/bash
.SHELLFLAGS := -e -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:

venv := .venv
python := $(venv)/bin/python
snabb := $(venv)/bin/snabb-py

metadata := setup.cfg setup.py pyproject.toml snabb_py/__init__.py
native := $(sort $(wildcard snabb_py/*/*.[ch])) snabb_py/native_build.py

.PHONY: build
build: $(snabb)  ## build .venv/bin/snabb-py; the default

.PHONY: run
run: build  ## forward packets for DURATION=10 seconds: 8 hops, both directions
	$(snabb) forward --hops 8 --bidir --duration $(DURATION)

.PHONY: test
test: build $(venv)/test-installed  ## install what the tests need, run the suite; ARGS="-k link"
	scripts/install-packages test
	$(python) -m pytest $(ARGS)

.PHONY: check
check: build $(venv)/test-installed $(venv)/dev-installed  ## format, lint, types, C warnings, layers
	$(python) -m ruff format --check .
	$(python) -m ruff check .
	$(python) -m mypy
	scripts/check-c
	$(python) -m pytest -q tests/unit/test_layers.py

# A tree of its own, so that the sanitized extension does not replace the real one; its
# Python is a copy, which the tests beside it find first. The interpreter is the stock
# one: hence the preload, and no leak check, which would report the interpreter's own.
# --capture=sys leaves file descriptor 2 alone: a report is not lost with the process.
san := $(CURDIR)/build/san
san_libraries = $(foreach name,asan ubsan,$(shell $(CC) -print-file-name=lib$(name).so))

.PHONY: san
san: build $(venv)/test-installed  ## unit and property tests under ASan and UBSan
	rm -rf $(san)
	mkdir -p $(san)
	cp -a pyproject.toml examples snabb_py tests $(san)
	SNABB_SANITIZE=1 $(python) setup.py -q build_ext --force \
	    --build-lib $(san) --build-temp $(san)/temp
	cd $(san) && LD_PRELOAD="$(san_libraries)" PYTHONPATH=$(san) PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	    $(CURDIR)/$(python) -m pytest --capture=sys \
	    $(wildcard tests/unit tests/property) $(ARGS)

.PHONY: bench
bench: build  ## the engine's benchmarks, a line each
	@for name in basic1 hops python-app reconfigure; do $(snabb) bench $$name; done

.PHONY: verify
verify: build  ## long runs and measurements, each judged; SNABB=/path/to/snabb for the ratio
	@for script in $(wildcard scripts/verify/*); do \
	    echo "$$script"; $(python) "$$script" || exit; \
	done

.PHONY: dist
dist: build $(venv)/dist-installed  ## make dist/snabb-py, one file that needs no Python
	scripts/install-packages dist
	$(python) scripts/dist/build

.PHONY: clean
clean:  ## remove all that make made, the virtual environment too
	rm -rf $(venv) build dist *.egg-info snabb_py/_native.*so
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find snabb_py tests scripts -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help
help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 16

$(python):
	PYTHON=$(PYTHON) scripts/install-packages build
	$(PYTHON) -m venv $(venv)
	$(python) -m pip install -q --upgrade cffi setuptools

# A change of C alone is compiled in place. --force, because setuptools compares times
# to the second and would miss the second of two quick edits. The result bears the time
# of the beginning: a file that is saved while the compiler runs is compiled next time.
$(snabb): $(metadata) $(native) build/sources | $(python)
	@touch build/begun
	$(if $(filter $(metadata),$?),\
	    $(python) -m pip install -q --no-build-isolation --editable .,\
	    $(python) setup.py -q build_ext --inplace --force)
	@touch -r build/begun $@

# Changes when a C file comes or goes, which no time of a file tells.
build/sources: always
	@mkdir -p build
	@echo "$(native)" | cmp -s - $@ || echo "$(native)" > $@

.PHONY: always
always:

# The extra's packages without the project itself, which would be compiled once more.
$(venv)/%-installed: setup.cfg | $(snabb)
	$(python) -c 'import configparser as c; p = c.ConfigParser(); p.read("setup.cfg"); \
	    print(p["options.extras_require"]["$*"])' | $(python) -m pip install -q -r /dev/stdin
	@touch $@
