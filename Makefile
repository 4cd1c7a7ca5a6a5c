# What one does with baton from a checkout. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: help build up promote down status monitor logs dev superuser test lint bench bench-check load-test manual install uninstall package

TARGET = $(or $(CARGO_TARGET_DIR),target)
PREFIX = /usr/local
SYSCONFDIR = /etc

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

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

monitor: ## watch it live: workers, rates, latency, errors, log (q quits)
	@scripts/monitor.sh

logs: ## follow the log
	@scripts/logs.sh

dev: ## run in the foreground: debug build, readable log
	@DEBUG=True scripts/dev.sh

superuser: build ## make somebody who may log in at /admin/
	@scripts/superuser.sh

test: ## everything: unit, property and whole-process tests (installs what is missing)
	@scripts/test.sh

lint: ## formatting, clippy, layering, shell scripts, alerts (installs what is missing)
	@scripts/lint.sh

bench: ## speed and memory beside a bare epoll loop and two published servers
	@scripts/bench.sh

bench-check: ## measure again, and say what got worse by more than 10 % since it was committed
	@scripts/bench_check.sh

manual: ## manual pages and completions, in target/manual; `make install` takes them
	cargo build --release --locked --package baton-manual
	@scripts/manual.sh $(TARGET)/release $(TARGET)/manual

install: ## what `make build manual` has made, below PREFIX=/usr/local; DESTDIR and SYSCONFDIR as usual
	@PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' DESTDIR='$(DESTDIR)' scripts/install.sh install

uninstall: ## removes that again; settings and state stay
	@PREFIX='$(PREFIX)' SYSCONFDIR='$(SYSCONFDIR)' DESTDIR='$(DESTDIR)' scripts/install.sh uninstall

package: ## a Debian package, in target/debian; an upgrade of it disconnects nobody
	@scripts/package.sh

load-test: build ## 5,000 clients that check every answer; starts a service for it if none answers at WS_BASE_URL
	@scripts/load_test.sh
