# One image for every role: `rill api`, `rill worker`, `rill migrate`, …
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep the compiled dependencies between builds; so the binary has to
# be taken out of the cached directory within the same step.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release --bin rill \
    && cp target/release/rill /usr/local/bin/rill

FROM debian:bookworm-slim
# For https:// model endpoints.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin rill
COPY --from=build /usr/local/bin/rill /usr/local/bin/rill
USER 10001
ENV RILL_LOG_FORMAT=json
EXPOSE 8080
ENTRYPOINT ["rill"]
CMD ["api", "--listen", "0.0.0.0:8080"]
