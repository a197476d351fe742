#!/usr/bin/env bash
# Installs mlmtune and its dependencies once, into the active virtual environment or else into .venv.
# run.sh and test.sh source this file, which sets ROOT and PYTHON. It also runs by itself:
#
#     bash scripts/setup.sh
#
# MLMTUNE_EXTRAS lists the extras of pyproject.toml to install, separated by commas (default:
# quickstart).
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_say() { printf '%s\n' "mlmtune: $*" >&2; }
_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

_environment="${VIRTUAL_ENV:-${CONDA_PREFIX:-$ROOT/.venv}}"
PYTHON="$_environment/bin/python"

if [[ ! -x "$PYTHON" ]]; then
    if [[ "$_environment" != "$ROOT/.venv" ]]; then
        _say "the active environment $_environment has no bin/python; deactivate it or create it again"
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
        _say "cannot create $_environment; on Debian and Ubuntu install python3-venv first"
        exit 1
    }
fi
if ! _is_new_enough "$PYTHON"; then
    _say "needs Python 3.11 or newer; $_environment has $("$PYTHON" --version 2>&1)"
    exit 1
fi

# Each installed extra is remembered until one of these files changes, or another copy of the
# repository is installed into the same environment.
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
        "$PYTHON" -m ensurepip >/dev/null  # uv makes environments without pip, as does an interrupted venv
    fi
    # Always with the constraints: otherwise pip would install newer versions of everything, which
    # are gigabytes in the case of PyTorch.
    "$PYTHON" -m pip install -qq --disable-pip-version-check \
        -c "$ROOT/constraints.txt" -e "$ROOT[$_extras]" || {
        _say "the installation failed for the reason above; you can safely try again"
        exit 1
    }
    for _extra in ${_extras//,/ }; do
        printf '%s\n' "$_wanted" >"$_environment/.mlmtune-installed-$_extra"
    done
fi
