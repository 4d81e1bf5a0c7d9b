# Every target works as the first command on a fresh clone: each sets up what it needs in .venv.
# System packages are installed only as root on a Debian-like machine; otherwise `make setup` says what is missing.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 1 2 3 4 5
HOURS ?= 8
DIR ?=

.PHONY: bench-campaigns bench-failures help setup setup-demo demo test lint campaigns replay determinism mutants night bench histories docs clean

help:
	@echo "make demo        five boards, real faults, one verdict, about a minute"
	@echo "make test        lint, types, import contracts, unit, firmware and system tests, one short seed of each campaign"
	@echo "make campaigns   every shipped campaign with seeds $(SEEDS)"
	@echo "make bench-campaigns  the main campaigns on a bench of namespaces (root), seeds $(SEEDS)"
	@echo "make bench-failures   what befalls a bench in mid-campaign: sshd, gateways, broker, ports, disk, clock (root)"
	@echo "make replay      the main campaigns on virtual boards, seeds 1 to 3, each run replayed: are all faithful?"
	@echo "make determinism every shipped campaign on sim, 20 seeds, the same in two processes with different hash seeds"
	@echo "make mutants     known bugs in copies of the firmware: what the swarm finds of them, and how soon"
	@echo "make night       the swarm over every shipped campaign for HOURS=$(HOURS), with its counts"
	@echo "make bench       the figures of docs/performance.md, measured here"
	@echo "make histories DIR=folder   judge a folder of recorded histories with known answers"
	@echo "make docs        generate the reference pages from the schema and the command line"

$(VENV)/.demo: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Brownout needs Python 3.11 or later; this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing brownout and its virtual boards into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[virtual]'
	@touch $@

$(VENV)/.test: $(VENV)/.demo
	@echo "installing the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[virtual,test]'
	@sh tools/system-packages.sh mosquitto:mosquitto openssh-server:sshd chromium:chromium \
		nftables:nft iproute2:ip faketime:faketime
	@touch $@

setup: $(VENV)/.test

setup-demo: $(VENV)/.demo
	@sh tools/system-packages.sh mosquitto:mosquitto openssh-server:sshd

demo: setup-demo
	@$(BIN)/brownout demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/lint_firmware.py

test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

campaigns: setup
	$(BIN)/python tools/campaigns.py --seeds $(SEEDS)

bench-campaigns: setup
	$(BIN)/python tools/bench_campaigns.py --seeds $(SEEDS)

replay: setup
	$(BIN)/python tools/replays.py --seeds 1-3

determinism: $(VENV)/.demo
	$(BIN)/python tools/determinism.py --seeds 20

mutants: $(VENV)/.demo
	$(BIN)/python tools/mutants.py

night: $(VENV)/.demo
	$(BIN)/python tools/night.py --hours $(HOURS)

bench: setup
	$(BIN)/brownout bench

bench-failures: setup
	$(BIN)/python -m pytest tests/system/test_bench_failures.py tests/system/long_bench_failures.py

histories: setup
	@test -n "$(DIR)" || { echo "usage: make histories DIR=folder-with-linearizable.json"; exit 2; }
	$(BIN)/python -m brownout.checkers.histories "$(DIR)"

docs: setup
	$(BIN)/python tools/reference.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
