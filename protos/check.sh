#!/usr/bin/env bash
# Fails if the committed stubs are not what the protos generate, or if the public API breaks
# what the last release tag promised.
set -euo pipefail
cd "$(dirname "$0")"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
./generate.sh "$out" 2>/dev/null
diff --recursive --exclude=__pycache__ "$out/vlm2vec/v1" ../clients/python/vlm2vec/v1
diff --recursive --exclude=__pycache__ "$out/vlm2vec/worker" ../clients/python/vlm2vec/worker
release=$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null || true)
if [ -n "$release" ]; then
    ../.venv/bin/buf breaking --path vlm2vec/v1 --against "../.git#ref=$release,subdir=protos"
fi
