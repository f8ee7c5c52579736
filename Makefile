# wm_ros with pip and make alone. `make help` lists what there is.
# PYTHON= chooses the interpreter that makes .venv; SEED= seeds the demo.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench soak soak-hour fuzz audit learn-check

PYTHON ?= python3
SEED ?= 0
REPEATS ?= 20
MINUTES ?= 60
PRIORITY ?= 0
INPUTS ?= 100000
MODES ?= realtime lockstep
VENV := .venv
BIN := $(VENV)/bin
FLAVOUR := $(or $(ROS_DISTRO),wheels)
STAMP := $(VENV)/.setup-stamp-$(FLAVOUR)
TORCH := torch==2.13.0
# Wheels without CUDA, for machines without an NVIDIA GPU: 0.2 GB in place of 3 GB.
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

# Where a ROS 2 is sourced, its own rclpy and messages are used.
comma := ,
EXTRAS := train,signing,test,lint$(if $(ROS_DISTRO),,$(comma)ros)
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q -c $(VENV)/constraints.txt

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

setup: $(STAMP) ## .venv with everything pinned; nothing happens the second time

$(STAMP): constraints.txt setup.py setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "error: wm_ros needs Python 3.10 or newer, $(PYTHON) is %d.%d: install a newer one and run: make setup PYTHON=/path/to/python3.12" % sys.version_info[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv: sudo apt install python3-venv" >&2; exit 1; }
ifdef ROS_DISTRO
	@$(PYTHON) -c 'import rclpy' 2>/dev/null || { echo "error: ROS 2 $(ROS_DISTRO) is sourced, but $(PYTHON) cannot import its rclpy: give the Python it was built for (make setup PYTHON=...), or run in a shell where no ROS 2 is sourced (then its wheels are installed)" >&2; exit 1; }
endif
	@set -e; \
	if ls $(VENV)/.setup-stamp-* >/dev/null 2>&1 && ! ls $(VENV)/.setup-stamp-$(FLAVOUR) >/dev/null 2>&1; then \
	  echo "setup: $(VENV) was made for another ROS 2: making it anew"; rm -rf $(VENV); \
	fi; \
	echo "setup: $(VENV) with $$($(PYTHON) --version), ROS 2 from $(if $(ROS_DISTRO),the sourced $(ROS_DISTRO),wheels)"; \
	test -x $(BIN)/python || $(PYTHON) -m venv $(if $(ROS_DISTRO),--system-site-packages) $(VENV); \
	cp constraints.txt $(VENV)/constraints.txt; \
	if [ -n "$(ROS_DISTRO)" ]; then \
	  echo "setup: keeping the system's numpy, which its ROS 2 messages are built against"; \
	  { grep -v '^numpy==' constraints.txt; echo "numpy==$$($(PYTHON) -c 'import numpy; print(numpy.__version__)')"; } > $(VENV)/constraints.txt; \
	fi; \
	if nvidia-smi >/dev/null 2>&1; then \
	  echo "setup: an NVIDIA GPU answers: torch with CUDA and onnxruntime-gpu"; \
	  accelerator=gpu; \
	else \
	  echo "setup: no NVIDIA GPU answers: torch and onnxruntime for the CPU"; \
	  accelerator=cpu; \
	fi; \
	$(PIP) setuptools wheel; \
	echo "setup: installing torch"; \
	if [ $$accelerator = gpu ] || ! $(PIP) -qq --retries 1 --no-deps --index-url "$(TORCH_CPU_INDEX)" "$(TORCH)"; then $(PIP) "$(TORCH)"; fi; \
	echo "setup: installing the packages of constraints.txt"; \
	$(PIP) --no-build-isolation -e ".[$(EXTRAS),$$accelerator]"
	@touch $(STAMP)
	@echo "setup: done"

demo: $(STAMP) ## learn cart-pole swing-up from nothing and drive it in real time: runs/demo (SEED=3 for another seed)
	@exec $(BIN)/wm-ros demo --seed $(SEED)

test: $(STAMP) ## the whole test suite
	@ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST $(BIN)/python -m pytest

lint: $(STAMP) ## ruff, mypy and the laws of the house
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP) ## all benchmarks, tables under docs/benchmarks
	@exec $(BIN)/wm-ros bench all --write docs/benchmarks

soak: $(STAMP) ## every fault of docs/reliability.md, REPEATS=20 times each, about an hour (SEED=0 of the schedule)
	@cd test && exec ../$(BIN)/python -m fault.soak --repeats $(REPEATS) --seed $(SEED) --write ../docs/reliability.md --results ../docs/results

soak-hour: $(STAMP) ## an hour in real time and one in lockstep under faults of chance (MINUTES=60 MODES="realtime lockstep" PRIORITY=0 SEED=0)
	@cd test && for mode in $(MODES); do \
	  ../$(BIN)/python -m fault.long_soak --mode $$mode --minutes $(MINUTES) --seed $(SEED) --priority $(PRIORITY) --write ../docs/reliability.md --results ../docs/results || exit 1; \
	done

fuzz: $(STAMP) ## INPUTS=100000 hostile contracts, controllers, announcements and paths, and as many damaged bags, about half an hour (SEED=0)
	@$(BIN)/python test/fault/fuzz_inputs.py --inputs $(INPUTS) --seed $(SEED)
	@$(BIN)/python test/fault/fuzz_bags.py --inputs $(INPUTS) --seed $(SEED)

audit: $(STAMP) ## known vulnerabilities of the pinned packages; needs the network
	@test -x $(VENV)-audit/bin/pip-audit || { $(BIN)/python -m venv $(VENV)-audit && $(VENV)-audit/bin/pip install -q pip-audit; } \
	  || { echo "error: no audit, pip-audit could not be installed: check the network" >&2; exit 2; }
	@exec $(BIN)/python .ci/audit.py $(VENV)-audit/bin/pip-audit constraints.txt

learn-check: $(STAMP) ## the demo over seeds 0 to 4, held against the bar
	@exec $(BIN)/wm-ros learn-check --results docs/results
