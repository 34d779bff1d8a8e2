# A small image with the harness-fs binary, linked statically against musl.
#
#   docker build -t harness-fs .
#   docker run --rm --privileged --device /dev/fuse harness-fs mount --foreground

FROM rust:1-alpine AS build
# zstd is C, and mounts need the kernel's headers.
RUN apk add --no-cache build-base linux-headers
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# Cargo.toml names the tests, so they have to be there.
COPY tests ./tests
RUN cargo build --release --locked --bin harness-fs \
    && strip target/release/harness-fs \
    && ! ldd target/release/harness-fs 2>/dev/null | grep -q '=>'

FROM alpine:3
COPY --from=build /src/target/release/harness-fs /usr/local/bin/harness-fs
COPY LICENSE /usr/share/licenses/harness-fs/LICENSE
# Steps run their commands with this image's shell; copy the binary into an image of your own for other tools:
# COPY --from=harness-fs /usr/local/bin/harness-fs /usr/local/bin/
ENTRYPOINT ["harness-fs"]
CMD ["mount", "--foreground"]
