# Sourced by drive.sh and test.sh: makes .venv and installs tickdrive with the extras asked for.

# find_python: prints a Python 3.10-3.12 that can make virtual environments.
find_python() {
  local candidate
  for candidate in ${PYTHON:-} python3.11 python3.12 python3.10 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' \
      >/dev/null 2>&1; then
      command -v "$candidate"
      return
    fi
  done
  echo "tickdrive needs Python 3.10, 3.11 or 3.12 with venv, and found none." >&2
  echo "Install one (Debian: python3-venv), or name it: PYTHON=/path/to/python3.11 $0" >&2
  return 1
}

# prepare_environment EXTRAS: installs only when what is asked for changed since the last time.
prepare_environment() {
  local extras=$1 python stamp wanted
  stamp=".venv/.tickdrive-$extras"
  wanted=$(cat pyproject.toml scripts/constraints.txt scripts/environment.sh | cksum)
  if [[ -f $stamp && $(cat "$stamp") == "$wanted" ]]; then
    return
  fi
  python=$(find_python)
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "making .venv with $("$python" --version)"
    "$python" -m venv .venv
  fi
  echo "installing tickdrive[$extras] into .venv (about a minute where downloads are quick)"
  # A graphics driver is the sign that torch's CUDA build is of use; without one a CPU build is tried first, by
  # its version and from PyTorch's own index. A bare name would take gigabytes of CUDA packages.
  local -a pip=(.venv/bin/python -m pip --disable-pip-version-check)
  local torch
  torch=$(grep '^torch==' scripts/constraints.txt)
  if ! command -v nvidia-smi >/dev/null 2>&1 && ! .venv/bin/python -c 'import torch' 2>/dev/null; then
    "${pip[@]}" install "$torch+cpu" --constraint scripts/constraints.txt 2>/dev/null | show_progress ||
      "${pip[@]}" --retries 1 --timeout 15 install "$torch+cpu" --constraint scripts/constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null | show_progress ||
      echo "  no CPU build of torch could be had; taking the registry's (a large download)"
  fi
  "${pip[@]}" install --constraint scripts/constraints.txt --editable ".[$extras]" | show_progress
  echo "$wanted" >"$stamp"
}

# show_progress: one live line of what pip is at, on a terminal; nothing elsewhere.
show_progress() {
  local word rest
  while read -r word rest; do
    if [[ -t 1 && $word =~ ^(Collecting|Downloading|Building|Installing)$ ]]; then
      printf '\r\033[K  %s %.60s' "$word" "$rest"
    fi
  done
  if [[ -t 1 ]]; then printf '\r\033[K'; fi
}
