# TREM. `make` lists the targets; each does its own set-up.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup build install demo test bench fuzz check clean

ENV := source tools/env.sh

help: ## List the targets
	@echo "TREM: make <target> [PG_CONFIG=/path/to/pg_config]"
	@echo
	@sed -nE 's/^([a-z]+):.*## (.*)/  \1\t\2/p' Makefile | expand -t 12

setup: ## Install what is missing: PostgreSQL, clang, cargo-pgrx (Rust must be there)
	@tools/setup.sh

build: setup ## Build the extension and target/release/trem-applier
	@$(ENV)
	cargo build --release -p trem_applier
	cargo build --release -p trem --lib --no-default-features --features "pg$$(pg_major)"

install: build ## Install the extension into PostgreSQL (PG_CONFIG), as root or through sudo
	@tools/install.sh "$${PG_CONFIG:-}"

demo: ## Watch it work: two throw-away databases, a copy, live changes (KEEP=1 leaves them up)
	@tools/setup.sh
	tools/demo.sh

test: ## Everything: check, cargo pgrx test, cargo pgrx regress, end to end
	@tools/setup.sh
	tools/test.sh

bench: ## Measure against native replication, pgcopydb and others (ONLY=cdc-insert, SCALE=0.1, RUNS=3)
	@tools/setup.sh
	tools/bench.sh

fuzz: ## Fuzz the decoder of the stream (SECONDS_MAX=60)
	@tools/fuzz.sh

check: setup ## Format, lints, unit tests: no running PostgreSQL
	@tools/check.sh

clean: ## Remove everything that was built here
	@tools/clean.sh
