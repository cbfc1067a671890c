# Built in one stage, run in another: the image holds the program and what it is linked to.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY . .
# A container brings its own PostgreSQL beside it, so the download of one is left out.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --no-default-features && cp target/release/headwater /usr/local/bin/headwater

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group headwater
COPY --from=build /usr/local/bin/headwater /usr/local/bin/headwater
USER headwater
# Reachable from outside the container only as far as its ports are published.
ENV HEADWATER_LISTEN=0.0.0.0:8080 HEADWATER_LOG_FORMAT=json
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD curl -fsS http://127.0.0.1:8080/readyz || exit 1
ENTRYPOINT ["headwater"]
CMD ["serve"]
