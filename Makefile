# make board   the environment, the whole pipeline, the page
# make test    the environment, every test
# make check   format, lint, types: what CI runs before the tests
# make site    only the page and the tables, from the committed results
# make format  let ruff rewrite what `make check` would refuse
# make pins    resolve the transitive pins of requirements.txt again
# make clean   remove what was built (not the results, not the environment)

PYTHON ?= python3
TESTS  ?=

VENV  := .venv
PY    := $(VENV)/bin/python
STAMP := $(VENV)/.installed
CODE  := benchmark stages leaderboard

# Several numeric threads per process make the small networks here slower, never faster.
export OMP_NUM_THREADS ?= 1
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export DVC_NO_ANALYTICS := true
# dvc.yaml calls plain `python`: it has to be the environment's.
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

OLD_PYTHON = LeakBoard needs Python 3.11 or newer and `$(PYTHON)` is not that; \
name another one, for example: make PYTHON=python3.12 $(MAKECMDGOALS)
AT_LEAST_311 = import sys; sys.exit(sys.version_info < (3, 11))

.PHONY: board test check site format pins clean
.DEFAULT_GOAL := board

board: $(STAMP)
	@# Outside a git checkout (an unpacked archive), or where artifacts/ is a link out of it, DVC must not ask git.
	@{ git rev-parse --git-dir >/dev/null 2>&1 && [ ! -L artifacts ]; } || $(PY) -m dvc config --local core.no_scm true
	$(PY) -m dvc repro
	@$(PY) -c 'from pathlib import Path; page = Path("leaderboard/site/index.html").resolve(); \
	print(f"\nThe board: {page}\n           {page.as_uri()}")'

test: $(STAMP)
	@$(PY) -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(TESTS)

check: $(STAMP)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy $(CODE)

site: $(STAMP)
	$(PY) -m leaderboard.build

format: $(STAMP)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

pins: $(STAMP)
	$(PY) .ci/pins.py

clean:
	rm -rf artifacts leaderboard/site leaderboard/tables leaderboard/.site.* leaderboard/.tables.* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find $(CODE) tests -name __pycache__ -type d -exec rm -rf {} +

# The stamp is written last, so an interrupted install is taken up again by the next `make`.
# An environment that is broken, or made by an older Python, is made anew.
$(STAMP): requirements.txt
	@if ! $(PY) -c '$(AT_LEAST_311); import pip' >/dev/null 2>&1; then \
	    "$(PYTHON)" -c '$(AT_LEAST_311)' >/dev/null 2>&1 || { echo '$(OLD_PYTHON)' >&2; exit 1; }; \
	    echo "Creating $(VENV)"; \
	    "$(PYTHON)" -m venv --clear $(VENV) || exit 1; \
	fi
	@rm -f $(STAMP)
	@echo "Installing what requirements.txt pins (the first time takes minutes)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $(STAMP)
