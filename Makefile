# The one door: `make help` lists what it opens. All paths are relative, so that a folder's name may hold spaces.

NOTEBOOKS = Task1.ipynb Task2.ipynb
VENV_PYTHON = .venv/bin/python
# A copy of the lock that .venv was installed from: equal means that nothing is to be installed.
INSTALLED = .venv/installed.lock
SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
VERSION = import sys; print(sys.version_info[:3])

# TensorFlow's start-up notes are about the machine, not about this project.
TF_CPP_MIN_LOG_LEVEL ?= 3
export TF_CPP_MIN_LOG_LEVEL
# oneDNN's convolutions, which TensorFlow turns on by itself only where the processor has AVX-512 or the like.
TF_ENABLE_ONEDNN_OPTS ?= 1
export TF_ENABLE_ONEDNN_OPTS

# KEEP decides whether hours of work end in the notebooks: a value that is not understood must not just be dropped.
ifeq ($(findstring |$(KEEP)|,|0|1||),)
  $(error KEEP is "$(KEEP)"; it must be 1 (put the executed notebooks in place of the stored ones) or 0 or nothing \
(leave those as they are). Say: make full KEEP=1)
endif

.DEFAULT_GOAL := help
.PHONY: help run full test report bench check environment

help: ## this list
	@echo "Usage: make TARGET [PYTHON=python3.12]"
	@awk -F ' *## *' '/^[a-z]+:.*##/ { sub(/:.*/, "", $$1); printf "  %-6s %s\n", $$1, $$2 }' Makefile

run: environment ## execute both notebooks in the quick profile (minutes); results in build/
	@KD_PROFILE=quick $(VENV_PYTHON) -m utils.notebooks run

full: environment ## the same in the full profile (hours, but for what is recorded); KEEP=1 also replaces the notebooks by the executed ones
	@KD_PROFILE=full $(VENV_PYTHON) -m utils.notebooks run $(if $(filter 1,$(KEEP)),--keep)

# Two workers, since most of the time goes into tracing networks, which keeps one core busy, and one thread for each,
# since more would only wait for each other. Files, and notebooks, stay whole; the longest come first (conftest.py), so
# that both workers end at about the same time.
test: export TF_NUM_INTRAOP_THREADS = 1
test: environment ## unit tests, and every cell of both notebooks in the quick profile
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=5 --nbval --nbval-current-env \
	  --nbval-cell-timeout=1200 $(NOTEBOOKS) tests

report: environment ## build/report.pdf and README.md from the stored results (seconds)
	@KD_PROFILE=full $(VENV_PYTHON) -m report.build --readme

bench: environment ## training speed, ours against others', and the experiments beside the notebooks, which README lists (over an hour)
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.speed
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.methods
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.transfer
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.polyps
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.segments
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.best_student
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.long_student
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.other_seeds
	@KD_PROFILE=full $(VENV_PYTHON) -m benchmarks.shifted_methods

check: environment ## lint and format, code and notebooks
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

# .venv is made anew where it does not run, where an earlier install was cut off half way (pip would take a half
# copied package for a whole one), or where PYTHON asks for another version than it has.
environment:
	@python="$(PYTHON)"; \
	if [ -n "$$python" ]; then \
	  "$$python" -c '$(SUPPORTED)' 2>/dev/null || { \
	    echo "PYTHON=$$python is not a Python from 3.11 to 3.13, which TensorFlow needs."; exit 1; }; \
	  wanted=$$("$$python" -c '$(VERSION)'); \
	else \
	  wanted=$$($(VENV_PYTHON) -c '$(VERSION)' 2>/dev/null); \
	fi; \
	if ! $(VENV_PYTHON) -c 'import pip; $(SUPPORTED)' 2>/dev/null || [ -e .venv/installing ] || \
	   [ "$$wanted" != "$$($(VENV_PYTHON) -c '$(VERSION)')" ]; then \
	  if [ -z "$$python" ]; then \
	    for candidate in python3 python3.13 python3.12 python3.11; do \
	      if "$$candidate" -c '$(SUPPORTED)' 2>/dev/null; then python=$$candidate; break; fi; \
	    done; \
	  fi; \
	  if [ -z "$$python" ]; then \
	    echo "No Python from 3.11 to 3.13 was found, and TensorFlow needs one."; \
	    echo "Install it (python.org, 'apt install python3 python3-venv', 'brew install python@3.12'), or name it:"; \
	    echo "  make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.12"; \
	    exit 1; \
	  fi; \
	  echo "Making .venv with $$python"; \
	  "$$python" -m venv --clear .venv || { \
	    echo "Making .venv failed: $$python lacks its venv module, or this folder cannot be written."; \
	    echo "On Debian and Ubuntu: apt install python3-venv (for a version of its own: python3.12-venv). Then run make again."; \
	    exit 1; }; \
	fi; \
	if ! cmp -s requirements.lock $(INSTALLED); then \
	  rm -f $(INSTALLED); touch .venv/installing; \
	  echo "Installing requirements.lock into .venv (about 2 minutes, 3 GB)"; \
	  $(VENV_PYTHON) -m pip install --disable-pip-version-check --no-input -r requirements.lock || { \
	    echo "Installing failed; pip's reason stands above. Without a network it cannot work; if the line was lost or"; \
	    echo "the disk was full, mend that and run make again: it goes on with what pip has already downloaded."; \
	    exit 1; }; \
	  cp requirements.lock $(INSTALLED).tmp && mv $(INSTALLED).tmp $(INSTALLED) && rm .venv/installing; \
	fi
