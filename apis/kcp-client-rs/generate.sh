#!/bin/sh
# Generates src/apis.rs and src/tenancy.rs from the CRDs of one version of kcp, which the Go tool chain
# downloads and verifies. With --check it compares instead and fails when they differ.
set -eu
version=v0.31.2
here=$(cd "$(dirname "$0")" && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

cd "$out"
crds=$(GOFLAGS=-mod=mod go mod download -json "github.com/kcp-dev/kcp@$version" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')/config/crds
cd "$here"
cargo run --quiet --package kcp-client-rs --example generate -- "$crds" "$out"
rustfmt --edition 2024 --config-path "$here/../.." "$out"/*.rs
for file in apis tenancy; do
    if [ "${1:-}" = --check ]; then
        diff -u "$here/src/$file.rs" "$out/$file.rs"
    else
        cp "$out/$file.rs" "$here/src/$file.rs"
    fi
done
