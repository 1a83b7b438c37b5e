# The targets are the README's commands and what CI calls; `make help` lists them.
# A target that needs something which is not there yet (redis-server, npm packages) installs it and says so.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Make's own parallelism would run cargo against cargo; each of the tools below uses all cores already.
.NOTPARALLEL:

CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
# The release binary: what `make run` starts and the end-to-end tests drive.
BINARY := $(CARGO_TARGET_DIR)/release/chat-cluster

# For `make run`: WORKERS=8 make run, or ARGS='--listen 0.0.0.0:3000 --balance round-robin' make run
WORKERS ?= 4
ARGS ?=
# For `make fuzz`: seconds for each target.
FUZZ_TIME ?= 60

# npm ci again only when the lock file is newer than what was installed from it.
npm_stamp = $(1)/node_modules/.package-lock.json
adapter_js := crates/redis-adapter/tests/js
bench_js := bench/peers/node-cluster
js_folders := $(foreach folder,web tests $(adapter_js),$(if $(wildcard $(folder)/package-lock.json),$(folder)))

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

.PHONY: run
run: build ## build and start a cluster with its data in target/run; Ctrl-C ends it
	@BINARY=$(BINARY) WORKERS=$(WORKERS) scripts/run.sh $(ARGS)

.PHONY: build
build: tools-cc web ## build the release binary
	cargo build --release --locked

# Of the parts that the Rust tests are made of, too: a release build of it has other features, and takes a minute.
.PHONY: examples
examples: ## build the examples: an app that is not the chat, and a master for workers of any kind
	cargo build --locked --workspace --bin your-own-app --bin smallest --bin with_redis --example master

.PHONY: man
man: build ## write the manual pages to target/man
	mkdir -p $(CARGO_TARGET_DIR)/man
	$(BINARY) man $(CARGO_TARGET_DIR)/man

.PHONY: deb
deb: build ## make a Debian package in target/debian
	@BINARY=$(BINARY) scripts/deb.sh $(CARGO_TARGET_DIR)/debian

.PHONY: static
static: tools-musl web ## build a binary without any library, for any Linux, in target/x86_64-unknown-linux-musl/release
	cargo build --release --locked --package chat-cluster --target $(shell uname -m)-unknown-linux-musl

.PHONY: web
web: web/dist/index.html ## build the page, and install the client bundle, that the binary serves

web_sources := $(shell find web -path web/node_modules -prune -o -path web/dist -prune -o -type f -print)
web/dist/index.html: $(call npm_stamp,web) $(web_sources)
	npm --prefix web run --silent build

.PHONY: test
test: tools-redis tools-systemd tools-disk tools-network tools-browser tools-schemathesis tools-promtool js tools-cc web ## every test: Rust, documentation, the page, and end to end on the release binary
	@BINARY=$(BINARY) scripts/test.sh

.PHONY: test-e2e
test-e2e: tools-redis tools-disk tools-network tools-browser tools-schemathesis tools-promtool js build examples ## only the end-to-end tests; SPECS=specs/balancing.test.mjs picks one
	@BINARY=$(BINARY) scripts/e2e.sh $(SPECS)

.PHONY: chaos
chaos: tools-redis $(call npm_stamp,tests) build ## users chat while processes are killed and frozen; SEEDS=1,2 has a run again, SECONDS=120, STORES=redis
	@cd tests && CHAT_CLUSTER_BINARY=$(BINARY) node chaos/main.mjs $(if $(SEEDS),--seeds $(SEEDS)) --seconds $(or $(SECONDS),120) $(if $(STORES),--store $(STORES))

.PHONY: operations
operations: tools-redis $(call npm_stamp,tests) build ## reloads, scaling, upgrades and deaths beneath a crowd, and what they cost it; ONLY=reloads,kills, LOGINS=10, STORES=redis
	@cd tests && for store in $(or $(STORES),embedded redis); do \
		TEST_STORE=$$store CHAT_CLUSTER_BINARY=$(BINARY) node operations/main.mjs $(if $(ONLY),--only '$(ONLY)') $(if $(LOGINS),--logins $(LOGINS)) || exit 1; \
	done

# For both: ROUNDS=9, or ONLY=handshakes,messages-6000.
bench_flags = $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY))

.PHONY: build-bench
build-bench: build
	cargo build --release --locked --package chat-cluster-bench

.PHONY: bench
bench: tools-redis tools-peers build-bench $(call npm_stamp,$(bench_js)) ## measure ours and its peers, write docs/benchmarks.md; QUICK=1 for a minute's worth
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench compare $(if $(QUICK),--quick) $(if $(QUICK)$(ONLY),,--report docs/benchmarks.md) $(bench_flags)

.PHONY: bench-watch
bench-watch: build-bench $(call npm_stamp,tests) ## what `status --watch` costs the master while it hands over 100,000 sockets
	@cd tests && BENCH=$(CARGO_TARGET_DIR)/release/bench CHAT_CLUSTER_BINARY=$(BINARY) node operations/watch_cost.mjs

.PHONY: bench-rooms
bench-rooms: tools-redis build-bench ## what a message to one of 20,000 rooms costs Redis with 2, 4 and 8 workers
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench rooms

.PHONY: bench-outage
bench-outage: tools-redis build-bench ## Redis stands still for 30 s: what clients are told, and how soon all is well again
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench outage

.PHONY: bench-stalled-reader
bench-stalled-reader: tools-redis build-bench ## a client that does not read: what it costs its worker and the others
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench stalled-reader

.PHONY: bench-relay
bench-relay: build-bench ## a request that is relayed from one worker to another, beside one that is not
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench relay

.PHONY: bench-scale
bench-scale: tools-redis build-bench ## what must not grow: log-ins with users, a message with workers, a broadcast with recipients
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench growth
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench recipients
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench workers

.PHONY: bench-reconnects
bench-reconnects: tools-redis build-bench ## clients come and go for an hour: whether memory grows, and what is left when they are gone
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench reconnects

.PHONY: bench-crowd
bench-crowd: tools-redis build-bench ## 100,000 clients on 8 workers, and messages among them
	BINARY=$(BINARY) scripts/crowd.sh $(CARGO_TARGET_DIR)/release/bench

# A build of their own: without frame pointers perf does not know who called.
.PHONY: flamegraphs
flamegraphs: tools-redis tools-perf build-bench ## draw where the workers' CPU time goes, in docs/flamegraphs
	cargo install --quiet --locked --root $(CARGO_TARGET_DIR)/tools/inferno --version 0.12.8 inferno
	RUSTFLAGS='-C force-frame-pointers=yes' cargo build --release --locked --package chat-cluster --target-dir $(CARGO_TARGET_DIR)/frames
	BINARY=$(CARGO_TARGET_DIR)/frames/release/chat-cluster scripts/flamegraphs.sh $(CARGO_TARGET_DIR)/release/bench $(CARGO_TARGET_DIR)/tools/inferno docs/flamegraphs

.PHONY: bench-much-stored
bench-much-stored: build-bench ## start and log-in with 1,000 and with 1,000,000 messages stored
	cargo build --release --locked --package chat-worker --example fill_store
	BINARY=$(BINARY) $(CARGO_TARGET_DIR)/release/bench much-stored

.PHONY: fuzz
fuzz: tools-cc tools-cxx ## fuzz what parses bytes of strangers; FUZZ_TIME=600 is the seconds for each target
	@FUZZ_TIME=$(FUZZ_TIME) scripts/fuzz.sh

.PHONY: lint
lint: tools-cc tools-lint js ## formatting, clippy, documentation, dependencies, eslint and the page's types; warnings are errors
	cargo fmt --all --check
	@scripts/deny.sh $(CARGO_TARGET_DIR)/tools/deny
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --locked --quiet
	npm --prefix web run --silent lint
	npm --prefix tests run --silent lint
	cd $(bench_js) && $(CURDIR)/tests/node_modules/.bin/eslint --max-warnings 0 .

.PHONY: format
format: js ## apply the formatting that `make lint` asks for
	cargo fmt --all
	cd web && node_modules/.bin/eslint --fix .
	npm --prefix tests run --silent lint -- --fix

.PHONY: clean
clean: ## remove what was built and installed, and the data of `make run`
	cargo clean
	rm -rf $(addsuffix /node_modules,$(js_folders) $(bench_js)) web/dist target/run

.PHONY: js
js: $(foreach folder,$(js_folders),$(call npm_stamp,$(folder)))

%/node_modules/.package-lock.json: %/package-lock.json %/package.json
	cd $* && npm ci --no-audit --no-fund
	@touch $@

.PHONY: tools-redis tools-cc tools-cxx tools-systemd tools-disk tools-peers tools-network tools-browser tools-schemathesis tools-promtool tools-musl tools-lint
tools-redis:
	@scripts/need.sh redis-server redis-server
tools-perf:
	@scripts/need.sh perf linux-perf
tools-cc:
	@scripts/need.sh cc gcc libc6-dev
# For the static binary.
tools-musl:
	@scripts/need.sh musl-gcc musl-tools
	@rustup target list --installed | grep -qx "$$(uname -m)-unknown-linux-musl" || rustup target add "$$(uname -m)-unknown-linux-musl"
# For libFuzzer.
tools-cxx:
	@scripts/need.sh c++ g++
# For the check of the systemd unit.
tools-systemd:
	@scripts/need.sh systemd-analyze systemd
# For the test of a power cut.
tools-disk:
	@scripts/need.sh mkfs.ext4 e2fsprogs
# What stands in front in tests, and what ours is compared with.
tools-peers:
	@scripts/need.sh haproxy haproxy
	@scripts/need.sh nginx nginx-light
# For the tests of TLS, of proxies, and of several hosts.
tools-network: tools-peers
	@scripts/need.sh caddy caddy
	@scripts/need.sh ip iproute2
	@scripts/need.sh openssl openssl
# For the tests of the page. The fonts are for what people write: emoji and other scripts.
tools-browser:
	@scripts/need.sh chromium chromium fonts-dejavu-core fonts-noto-color-emoji
# For the test of the HTTP interface against its own description.
export SCHEMATHESIS := $(CARGO_TARGET_DIR)/tools/schemathesis/bin/schemathesis
tools-schemathesis:
	@scripts/schemathesis.sh $(CARGO_TARGET_DIR)/tools/schemathesis
# For the check of metrics and alert rules.
export PROMTOOL := $(CARGO_TARGET_DIR)/tools/promtool/promtool
tools-promtool:
	@scripts/promtool.sh $(dir $(PROMTOOL))
tools-lint:
	@cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt
	@cargo clippy --version >/dev/null 2>&1 || rustup component add clippy
