# Every target is a script or a command that works without make as well.
# ARGS="…" goes to the command: make run ARGS="--hints off", make test-rust ARGS=a_test
.DEFAULT_GOAL := help

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: run
run: ## try it out: servers, API, worker and page; PORT=8080
	@scripts/run $(ARGS)

.PHONY: forget
forget: ## delete what `make run` has kept, conversations and all
	@scripts/forget

.PHONY: test
test: ## every test: rust, page, clients and guard
	@scripts/with-services scripts/test

.PHONY: test-rust
test-rust: ## the Rust tests
	@scripts/with-services scripts/test rust -- $(ARGS)

.PHONY: test-page
test-page: ## the chat page in headless Chromium
	@scripts/with-services scripts/test page

.PHONY: test-clients
test-clients: ## third-party SSE clients, across a cut
	@scripts/with-services scripts/test clients

.PHONY: guard
guard: ## what a token costs, in counts, against what is committed
	@scripts/with-services scripts/test guard

.PHONY: fuzz
fuzz: ## libFuzzer on whatever parses outside input; FUZZ_SECONDS=60 a target, ARGS=chunks
	@scripts/fuzz $(ARGS)

.PHONY: lint
lint: ## formatting, clippy, documentation; warnings are errors
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* .ci/run; fi

.PHONY: openapi
openapi: ## write openapi/openapi.json anew
	@scripts/openapi

.PHONY: sqlx
sqlx: ## write .sqlx/ anew, after a query or a migration has changed
	@scripts/sqlx

.PHONY: bench
bench: ## the benchmarks
	@scripts/with-services cargo bench --locked $(ARGS)

.PHONY: chaos
chaos: ## every fault at once; CHAOS_SECONDS=60 CHAOS_TASKS=60 CHAOS_SEED=
	@CHAOS_SECONDS=$${CHAOS_SECONDS:-60} CHAOS_TASKS=$${CHAOS_TASKS:-60} \
	    scripts/with-services scripts/test rust -- --test it -- --nocapture chaos::under

.PHONY: failover
failover: ## how long a failover takes, from the switch to the first token and the first message
	@scripts/with-services scripts/test rust -- --test it -- --nocapture --ignored failover::failover_times

.PHONY: compatibility
compatibility: ## the released binary beside this one, under chaos; CHAOS_SECONDS=120
	@RILL_RELEASED_BIN=$$(scripts/released) && export RILL_RELEASED_BIN && \
	    CHAOS_SECONDS=$${CHAOS_SECONDS:-120} CHAOS_TASKS=$${CHAOS_TASKS:-60} \
	    scripts/with-services scripts/test rust -- --test it -- --nocapture chaos::under

.PHONY: stops
stops: ## how long a stop takes, 20 ms from Redis
	@scripts/with-services scripts/test rust -- --test it -- --nocapture --ignored cancel::stop_times

.PHONY: recovery
recovery: ## how long readers wait when something dies
	@scripts/with-services scripts/test rust -- --test it -- --nocapture --ignored recovery::
