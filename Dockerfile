# A small image with the harness-fs binary, linked statically.
#
#   docker build -t harness-fs .
#   docker run --rm --privileged --device /dev/fuse harness-fs mount --foreground

FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src ./src
# Cargo.toml names the tests, so they have to be there.
COPY tests ./tests
COPY scripts/static-build ./scripts/
RUN scripts/static-build /harness-fs

FROM alpine:3
COPY --from=build /harness-fs /usr/local/bin/harness-fs
COPY LICENSE /usr/share/licenses/harness-fs/LICENSE
# Steps run their commands with this image's shell; copy the binary into an image of your own for other tools:
# COPY --from=harness-fs /usr/local/bin/harness-fs /usr/local/bin/
ENTRYPOINT ["harness-fs"]
# Started again, it goes on with the stage that was kept when it was stopped.
CMD ["mount", "--foreground", "--resume-if-kept"]
