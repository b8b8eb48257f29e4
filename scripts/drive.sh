#!/usr/bin/env bash
# From a fresh clone to a driven route: makes .venv, installs from the package registry, and drives.
# All arguments go to `tickdrive drive`; try ./scripts/drive.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh
prepare_environment "sim"
exec .venv/bin/tickdrive drive "$@"
