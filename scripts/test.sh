#!/usr/bin/env bash
# Installs what testing needs into .venv and runs the whole suite: lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
prepare_environment "sim,vlm,report,rerun,cpu-int8,dev"

echo "== ruff"
.venv/bin/ruff check .
.venv/bin/ruff format --check .

echo "== mypy"
# The folders are imported as tickdrive.<folder>; a tree of links shows them to mypy under those names.
mkdir -p build/typecheck/tickdrive
for folder in agents configs leaderboard planner scripts; do
  ln -sfn "../../../$folder" "build/typecheck/tickdrive/$folder"
done
(cd build/typecheck && ../../.venv/bin/mypy --config-file ../../pyproject.toml -p tickdrive)

echo "== pytest"
exec .venv/bin/python -m pytest "$@"
