#!/usr/bin/env bash
# Installs mlmtune and what it needs, once: into the active virtual environment, else into .venv.
# run.sh and test.sh source this file; it leaves the paths ROOT and PYTHON. By itself:
#
#     bash scripts/setup.sh
#
# MLMTUNE_EXTRAS names the extras of pyproject.toml to install, with commas (default: quickstart).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_say() { printf '%s\n' "mlmtune: $*" >&2; }
_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

_environment="${VIRTUAL_ENV:-${CONDA_PREFIX:-$ROOT/.venv}}"
PYTHON="$_environment/bin/python"

if [[ ! -x "$PYTHON" ]]; then
    if [[ "$_environment" != "$ROOT/.venv" ]]; then
        _say "the active environment $_environment has no bin/python; deactivate it or make it anew"
        exit 1
    fi
    _base=""
    for _candidate in python3 python3.13 python3.12 python3.11 python; do
        if _is_new_enough "$_candidate"; then _base="$_candidate" && break; fi
    done
    if [[ -z "$_base" ]]; then
        _say "needs Python 3.11 or newer; python3 is $(python3 --version 2>&1 || true)"
        exit 1
    fi
    "$_base" -m venv "$_environment" || {
        _say "cannot make $_environment; on Debian and Ubuntu install python3-venv first"
        exit 1
    }
fi
if ! _is_new_enough "$PYTHON"; then
    _say "needs Python 3.11 or newer; $_environment has $("$PYTHON" --version 2>&1)"
    exit 1
fi

# What is installed is remembered, an extra at a time, until one of these files changes or another
# copy of the repository is installed in its place.
_extras="${MLMTUNE_EXTRAS:-quickstart}"
_wanted="$ROOT $(cat "$ROOT/constraints.txt" "$ROOT/pyproject.toml" | cksum)"
_complete=yes
for _extra in ${_extras//,/ }; do
    _stamp="$_environment/.mlmtune-installed-$_extra"
    if [[ ! -f "$_stamp" || "$(<"$_stamp")" != "$_wanted" ]]; then _complete=no; fi
done

if [[ "$_complete" == no ]]; then
    _say "installing into $_environment (once; 1 to 10 minutes, most of it PyTorch)"
    if ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
        "$PYTHON" -m ensurepip >/dev/null  # an environment made by uv, or one half made
    fi
    # Never without the constraints: pip would look for newer versions of everything, and of
    # PyTorch that means gigabytes.
    "$PYTHON" -m pip install -qq --disable-pip-version-check \
        -c "$ROOT/constraints.txt" -e "$ROOT[$_extras]" || {
        _say "the installation failed; its reason is above, and nothing is lost by trying again"
        exit 1
    }
    for _extra in ${_extras//,/ }; do
        printf '%s\n' "$_wanted" >"$_environment/.mlmtune-installed-$_extra"
    done
fi
