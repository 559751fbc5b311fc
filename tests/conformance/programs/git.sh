#!/bin/bash
# A repository with a long history in the current directory: import, clone, commit, branch, merge, gc, fsck.
# usage: git.sh COMMITS
set -euo pipefail
commits=$1
export GIT_CONFIG_GLOBAL=$PWD/config GIT_CONFIG_NOSYSTEM=1
git config --global user.name tester
git config --global user.email tester@example.org
git config --global init.defaultBranch main
git config --global core.fsync all

git init -q origin
python3 - "$commits" <<'PYTHON' | git -C origin fast-import --quiet
import random, sys
dice = random.Random(1)
for number in range(1, int(sys.argv[1]) + 1):
    content = dice.randbytes(dice.randrange(2000)).hex()
    print(f"commit refs/heads/main\nmark :{number}\ncommitter T <t@example.org> {1_600_000_000 + number} +0000")
    print(f"data 5\nwork\n{f'from :{number - 1}' + chr(10) if number > 1 else ''}", end="")
    print(f"M 100644 inline d{dice.randrange(20)}/f{dice.randrange(30)}\ndata {len(content)}\n{content}\n")
PYTHON
git -C origin checkout -qf main
test "$(git -C origin rev-list --count main)" = "$commits"
git clone -q --no-local origin clone
cd clone
for n in $(seq 1 10); do
    echo "$n" >"new-$n"
    git add .
    git commit -qm "number $n"
done
git checkout -q -b side HEAD~5
echo side >side
git add side
git commit -qm side
git checkout -q main
git merge -q -m merged side
git push -q origin main:pushed
git gc -q --prune=now
git repack -q -a -d -f
git fsck --full --strict
test -z "$(git status --porcelain)"
cd ../origin
git gc -q
git fsck --full --strict
test "$(git rev-list --count pushed)" = $((commits + 12))
