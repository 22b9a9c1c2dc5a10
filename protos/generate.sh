#!/usr/bin/env bash
# Generates the typed Python stubs into the client distribution: protos/generate.sh [OUT]
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-../clients/python}
bin=../.venv/bin
PATH="$bin:$PATH" $bin/python -m grpc_tools.protoc -I . \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" --mypy_grpc_out="$out" \
    $(find vlm2vec -name '*.proto' | sort)
find "$out/vlm2vec/v1" "$out/vlm2vec/worker" -type d -exec touch {}/__init__.py \;
