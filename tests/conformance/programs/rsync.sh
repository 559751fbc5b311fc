#!/bin/bash
# rsync into the current directory and within it; a second run finds nothing to do.
# usage: rsync.sh FILES
set -euo pipefail
here=$(dirname "$0")
local=$LOCAL
python3 "$here/tree.py" "$local/tree" "$1"
again() {
    found=$(rsync -aHS --checksum --itemize-changes "$1" "$2")
    [ -z "$found" ] || { printf 'a second rsync finds changes:\n%s\n' "$found"; exit 1; }
}
rsync -aHS --checksum "$local/tree/" in/
again "$local/tree/" in/
rsync -aH --checksum --inplace --no-whole-file in/ copy/
again in/ copy/
rsync -aH in/ "$local/back/" # and out again
again "$local/tree/" "$local/back/"
rsync -aH --delete --itemize-changes copy/ in/
