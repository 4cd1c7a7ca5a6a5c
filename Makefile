# What one does with baton from a checkout. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help build up promote down status logs dev superuser test lint bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the two commands, optimised, in target/release
	cargo build --release --locked

up: build ## start the service in the background; returns when it is ready
	@scripts/up.sh

promote: build ## hand everything over to a new generation of this build; clients stay connected
	@scripts/promote.sh

down: ## stop it; every client hears goodbye
	@scripts/down.sh

status: ## slots, connections, rates
	@scripts/ctl.sh status

logs: ## follow the log
	@scripts/logs.sh

dev: ## run in the foreground: debug build, readable log
	@DEBUG=True scripts/dev.sh

superuser: build ## make somebody who may log in at /admin/
	@scripts/superuser.sh

test: ## everything: unit, property and whole-process tests (installs what is missing)
	@scripts/test.sh

lint: ## formatting, clippy, layering, shell scripts (installs what is missing)
	@scripts/lint.sh

bench: ## speed and memory beside a bare epoll loop and two published servers
	@scripts/bench.sh
