# Built in one stage, run in another: the image holds the program and what it is linked to.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev binutils && rm -rf /var/lib/apt/lists/*
COPY . .
# The commit, which /version tells: there is no .git here, and what RUN starts sees arguments as variables.
ARG HEADWATER_COMMIT=
# A container brings its own PostgreSQL beside it, so the download of one is left out.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    ./scripts/package --to /package -- --no-default-features

FROM debian:bookworm-slim
# The user first, so that the package finds it, and its number does not depend on what else is installed.
RUN useradd --system --uid 10001 --user-group headwater
RUN --mount=type=bind,from=build,source=/package,target=/package \
    apt-get update && apt-get install -y --no-install-recommends curl /package/headwater_*.deb && rm -rf /var/lib/apt/lists/*
USER headwater
# Reachable from outside the container only as far as its ports are published.
ENV HEADWATER_LISTEN=0.0.0.0:8080 HEADWATER_LOG_FORMAT=json
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s --retries=3 \
    CMD curl -fsS http://127.0.0.1:8080/readyz || exit 1
ENTRYPOINT ["headwater"]
CMD ["serve"]
