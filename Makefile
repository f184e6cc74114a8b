# Short names for the scripts; nothing is decided here.
.DEFAULT_GOAL := help
.PHONY: help setup check test sim e2e bench docs demo

help: ## show this list
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  \1\t/'

setup: ## make .venv with the project and its tools
	@bash -c '. scripts/environment && environment dev'

check: ## ruff, mypy, import contracts
	@./scripts/test check

test: ## all checks and tests
	@./scripts/test

sim: ## the simulation
	@./scripts/test sim

e2e: ## real platforms, killed and started again
	@./scripts/test e2e

bench: ## the benches
	@./scripts/bench

demo: ## everything in a minute; leaves the platform running
	@./scripts/demo

docs: setup ## write the generated pages anew
	@.venv/bin/python -m pratai.cli.reference > docs/reference/cli.md
	@.venv/bin/python -m pratai.config.reference > docs/reference/configuration.md
	@.venv/bin/python -m pratai.gateway.api.reference > docs/reference/api.md
	@.venv/bin/python scripts/errors_reference.py > docs/reference/errors.md
