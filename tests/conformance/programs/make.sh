#!/bin/bash
# A C program of many files, built by `make -j4` in the current directory; nothing is left to do afterwards, and only
# what depends on a touched file is built again.
# usage: make.sh FILES
set -euo pipefail
files=$1
mkdir src
for n in $(seq 1 "$files"); do
    printf '#include "all.h"\nint f%d(int x) { return x + %d; }\n' "$n" "$n" >"src/f$n.c"
    echo "int f$n(int x);" >>src/all.h
done
{
    printf '#include <stdio.h>\n#include "all.h"\nint main(void) {\n    int x = 0;\n'
    for n in $(seq 1 "$files"); do echo "    x = f$n(x);"; done
    printf '    printf("%%d\\n", x);\n    return 0;\n}\n'
} >src/main.c
cat >Makefile <<'MAKE'
objects := $(patsubst src/%.c,build/%.o,$(wildcard src/*.c))
program: libfs.a build/main.o
	$(CC) -o $@ build/main.o -L. -lfs
libfs.a: $(filter-out build/main.o,$(objects))
	$(AR) rcs $@ $?
build/%.o: src/%.c
	@mkdir -p build
	$(CC) -g -MMD -c -o $@ $<
-include $(objects:.o=.d)
MAKE
make -s -j4
test "$(./program)" = $((files * (files + 1) / 2))
make -q
sleep 1.1 # the granularity of nothing here: make compares times
touch src/f1.c
test "$(make -n | grep -c -- '-c -o')" = 1
make -s -j4
make -q
