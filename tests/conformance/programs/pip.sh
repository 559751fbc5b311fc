#!/bin/bash
# A virtual environment in the current directory: the wheel of this checkout, and pure Python packages from the package
# index by the hashes of its lock file. Where there is no index, the wheel alone.
# usage: pip.sh
set -euo pipefail
root=$(cd "$(dirname "$0")/../../.." && pwd)
pure='^(click|markdown-it-py|mdurl|pygments|rich|sniffio|sortedcontainers)=='
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
awk -v pure="$pure" '/^[a-z]/ { keep = $1 ~ pure } keep' "$root/requirements.lock" >"$LOCAL/lock"
"$PYTHON" -m pip wheel -q --no-deps --no-build-isolation -w "$LOCAL" "$root"
python3 -m venv env
env/bin/pip install -q --no-deps "$LOCAL"/p2pfs-*.whl
env/bin/python -c 'import p2pfs, sys; assert p2pfs.__file__.startswith(sys.prefix)'
if "$PYTHON" -m pip download -q --no-deps --require-hashes -r "$LOCAL/lock" -d "$LOCAL/index" 2>"$LOCAL/error"; then
    env/bin/pip install -q --no-deps --require-hashes --no-index --find-links "$LOCAL/index" -r "$LOCAL/lock"
    env/bin/python -c 'import click, rich.table, pygments.lexers'
else
    tail -n 1 "$LOCAL/error"
fi
env/bin/pip uninstall -q -y p2pfs
test -z "$(find env -name 'p2pfs*')"
