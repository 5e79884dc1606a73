# One build stage, one final image for each binary: static, from scratch, not root.
#   docker build --target back -t lameduck/back .

FROM --platform=$BUILDPLATFORM rust:1.95.0-slim-bookworm AS build
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
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,id=lameduck-target-$TARGETARCH,sharing=locked \
    cargo build --locked --release --target "$(cat /target)" \
    && install -D -t /out "target/$(cat /target)/release/init" "target/$(cat /target)/release/front" \
        "target/$(cat /target)/release/back"

FROM scratch AS init
COPY --from=build /out/init /init
USER 65532:65532
ENTRYPOINT ["/init", "--"]

FROM init AS front
COPY --from=build /out/front /front
EXPOSE 1234
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=2 \
    CMD ["/init", "--check", "http://127.0.0.1:1234/health"]
CMD ["/front"]

FROM init AS back
COPY --from=build /out/back /back
EXPOSE 1235
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=2 \
    CMD ["/init", "--check", "http://127.0.0.1:1235/health"]
CMD ["/back"]
