# One build, one final image for each binary: static, from scratch, not root.
#   docker build --target back -t lameduck/back .
# Both platforms of all of them, with what a release says about itself: docker-bake.hcl.

FROM --platform=$BUILDPLATFORM rust:1.95.0-slim-bookworm AS tools
# It writes into each binary which crates are in it. A scanner finds nothing else to go by in an image from scratch.
# Unoptimised: it does little, and is built sooner.
RUN cargo install --quiet --locked --debug --version 0.7.7 cargo-auditable

FROM --platform=$BUILDPLATFORM tools AS build
ARG TARGETARCH
WORKDIR /src
# musl: static, quick to start, and cross-compiled with the linker and start files that come with the target.
RUN case "$TARGETARCH" in \
        amd64) target=x86_64-unknown-linux-musl ;; \
        arm64) target=aarch64-unknown-linux-musl ;; \
        *) echo "no build for '$TARGETARCH': amd64 and arm64 are supported" >&2; exit 1 ;; \
    esac \
    && echo "$target" >/target \
    && rustup target add "$target"
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld
COPY . .
# What --version says beside the version. Without it, nothing.
ARG LAMEDUCK_COMMIT
# The files' time, which is part of the image's digest. BuildKit takes the image's own from it as well.
ARG SOURCE_DATE_EPOCH=0
# Each platform has its own caches: what Cargo locks while it unpacks a crate is not in the folder that would be shared, and
# two that unpack the same one fail.
RUN --mount=type=cache,target=/usr/local/cargo/registry,id=lameduck-registry-$TARGETARCH,sharing=locked \
    --mount=type=cache,target=/src/target,id=lameduck-target-$TARGETARCH,sharing=locked \
    cargo auditable build --locked --release --target "$(cat /target)" -p init -p front -p back \
    && install -D -t /out "target/$(cat /target)/release/init" "target/$(cat /target)/release/front" \
        "target/$(cat /target)/release/back" \
    && touch --date="@$SOURCE_DATE_EPOCH" /out/*

# Apart from them, as most builds do not need it.
FROM build AS build-rehearse
RUN --mount=type=cache,target=/usr/local/cargo/registry,id=lameduck-registry-$TARGETARCH,sharing=locked \
    --mount=type=cache,target=/src/target,id=lameduck-target-$TARGETARCH,sharing=locked \
    cargo auditable build --locked --release --target "$(cat /target)" -p rehearse \
    && install -D -t /out "target/$(cat /target)/release/rehearse" \
    && touch --date="@$SOURCE_DATE_EPOCH" /out/rehearse

FROM scratch AS init
COPY --from=build /out/init /init
USER 65532:65532
ENTRYPOINT ["/init", "--"]
# Those below have these too, but for what they override.
ARG LAMEDUCK_COMMIT LAMEDUCK_VERSION LAMEDUCK_SOURCE
LABEL org.opencontainers.image.title="init" \
    org.opencontainers.image.description="An entrypoint that keeps a task serving until no DNS cache can name it" \
    org.opencontainers.image.source="$LAMEDUCK_SOURCE" \
    org.opencontainers.image.revision="$LAMEDUCK_COMMIT" \
    org.opencontainers.image.version="$LAMEDUCK_VERSION" \
    org.opencontainers.image.licenses="MIT"

FROM init AS front
COPY --from=build /out/front /front
LABEL org.opencontainers.image.title="front" \
    org.opencontainers.image.description="Passes HTTP requests on to the tasks behind a DNS name"
EXPOSE 1234
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=2 \
    CMD ["/init", "--check", "http://127.0.0.1:1234/health"]
CMD ["/front"]

FROM init AS back
COPY --from=build /out/back /back
LABEL org.opencontainers.image.title="back" \
    org.opencontainers.image.description="The model of a well-behaved task"
EXPOSE 1235
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=2 \
    CMD ["/init", "--check", "http://127.0.0.1:1235/health"]
CMD ["/back"]

# What is rehearsed lies beside what rehearses it.
FROM init AS rehearse
COPY --from=build-rehearse /out/init /out/front /out/back /out/rehearse /
LABEL org.opencontainers.image.title="rehearse" \
    org.opencontainers.image.description="Replays an ECS rolling deploy, and says which requests fail and why"
ENTRYPOINT ["/rehearse"]
