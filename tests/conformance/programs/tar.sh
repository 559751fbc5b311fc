#!/bin/bash
# tar out of and into the current directory; what comes back is what went in, to the bit, mode and time.
# usage: tar.sh FILES
set -euo pipefail
here=$(dirname "$0")
local=$LOCAL
python3 "$here/tree.py" "$local/tree" "$1"
flags=(--format=posix --sort=name --pax-option=delete=atime,delete=ctime,exthdr.name=x)
tar "${flags[@]}" -C "$local/tree" -cf "$local/from-disk.tar" .
mkdir in
tar -C in -xpf "$local/from-disk.tar"
tar -C in --compare -f "$local/from-disk.tar"
tar "${flags[@]}" -C in -cf from-here.tar .
cmp "$local/from-disk.tar" from-here.tar
