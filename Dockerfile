# syntax=docker/dockerfile:1

# The page and the official client bundle, which the binary carries and serves.
FROM node:22-bookworm-slim AS web
WORKDIR /build/web
COPY web/package.json web/package-lock.json ./
RUN npm ci --no-audit --no-fund
COPY web .
RUN npm run build

FROM rust:1-bookworm AS build
WORKDIR /build
COPY . .
COPY --from=web /build/web/node_modules/socket.io-client web/node_modules/socket.io-client
COPY --from=web /build/web/dist web/dist
# The caches are not part of the image, so the binary is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked && install -D target/release/chat-cluster /out/chat-cluster \
    && strip --strip-debug /out/chat-cluster

# The same Debian as the build stage: the binary uses its glibc.
FROM debian:bookworm-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin chat-cluster \
    && install -d -m 0700 -o chat-cluster -g chat-cluster /run/chat-cluster /var/lib/chat-cluster
COPY --from=build /out/chat-cluster /usr/bin/chat-cluster
USER chat-cluster
# PORT means every address of the container, of which only the published port can be reached; hosting
# platforms set a PORT of their own.
ENV PORT=3000 \
    CHAT_CLUSTER_RUNTIME_DIR=/run/chat-cluster \
    CHAT_CLUSTER_DATA_DIR=/var/lib/chat-cluster
# Sessions and messages, unless REDIS_URL names a Redis. On one machine, for one container at a time.
VOLUME /var/lib/chat-cluster
EXPOSE 3000
# The master lets its clients go and ends its workers on SIGTERM.
STOPSIGNAL SIGTERM
# The slim image has no curl; bash can speak enough HTTP for this.
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$PORT && printf 'GET /healthz HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ \"$status\" = 200 ]"]
ENTRYPOINT ["/usr/bin/chat-cluster"]
