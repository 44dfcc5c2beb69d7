#!/bin/sh
# Sees to it that .venv is what requirements.lock says. Where it is, this costs a few milliseconds
# and says nothing. Needs a Python >= 3.11 with venv; everything else it gets itself.
# With words after it: runs them with the machine's Python, .venv or not (`make clean`).
set -eu
cd "$(dirname "$0")/.."

suits='import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
candidates="${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11"
if [ $# -gt 0 ]; then
    for python in $candidates; do
        "$python" -c "$suits" 2>/dev/null && exec "$python" "$@"
    done
fi

# The path belongs to it: a checkout that was moved or copied has a .venv that points elsewhere.
wanted=$(pwd -P && cksum requirements.lock pyproject.toml launch/bootstrap.lock launch/bootstrap.py)
if [ "$(cat .venv/.complete 2>/dev/null || :)" = "$wanted" ] &&
    .venv/bin/python -c 'import editables' 2>/dev/null; then
    exit 0
fi

without_venv=
for python in $candidates; do
    "$python" -c "$suits" 2>/dev/null || continue
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        exec "$python" launch/bootstrap.py "$wanted"
    fi
    without_venv=${without_venv:-$python}
done

if [ -n "$without_venv" ]; then
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "$without_venv (Python $version) has no venv module. Install the package it comes in:" >&2
    echo "    apt-get install python3-venv        # or python$version-venv" >&2
else
    echo "No Python 3.11, 3.12, 3.13 or 3.14 was found (tried: $candidates)." \
        "Install one, or name it: make PYTHON=/path/to/python" >&2
fi
exit 1
