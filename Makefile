# Everything a person does with this checkout. `make help` lists it.
#
# `make demo` and `make test` work on a machine that has nothing yet: scripts under packaging/ install the system
# packages that are missing, and requirements*.lock pin every Python package by hash.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP_FLAGS := -qq --disable-pip-version-check
SOURCES := p2pfs mount peerd tests packaging .ci
DEMO_ROOT ?= .demo
DEMO_MOUNT ?= $(DEMO_ROOT)/mnt
DEMO_PEERS ?= 3
BENCH_OUT ?= bench-results
HEAL_FLAGS ?=
SCALE_FLAGS ?=
BENCH_FLAGS ?=
LINK_FLAGS ?=
MOOSEFS_PACKAGES = moosefs-master moosefs-chunkserver moosefs-client iproute2 util-linux
# What a few minutes in CI need, and what all of the conformance suite needs besides.
PYTHON_TESTS = $(shell /usr/bin/python3 -c 'import sys; print("libpython%d.%d-testsuite" % sys.version_info[:2])')
SAMPLE_PACKAGES = stress-ng fio rsync git procps $(PYTHON_TESTS)
CONFORMANCE_PACKAGES = $(SAMPLE_PACKAGES) fsmark dbench bonnie++ postgresql
CONFORMANCE_FLAGS ?=
SOAK_OUT ?= soak-results
SOAK_FLAGS ?=
PREFIX ?= /opt/p2pfs
UNIT_DIR ?= /etc/systemd/system
HELPER_DIR ?= /sbin
DESTDIR ?=
DEB_DIR ?= dist
DEB_VERSION ?=
# dpkg-dev's tools, and what a mount needs to be compiled; then what boots a machine to try it in.
DEB_PACKAGES = debhelper dpkg-dev fakeroot po-debconf fuse3 libfuse3-dev pkg-config gcc python3-dev python3-venv
TRY_PACKAGES = systemd-container debootstrap dpkg-dev util-linux
TRY_DIR ?= build/package
RELEASE ?= trixie
TRY_RELEASE_DIR ?= build/release
TESTS ?=
PYTEST_FLAGS ?=

.DELETE_ON_ERROR:
.PHONY: help web demo demo-stop test conformance conformance-sample soak check format bench bench-heal bench-peers bench-link bench-swarm bench-scale bench-search screenshots deb test-package test-release install uninstall lock clean system

help: ## list what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 22

system: ## install the system packages that are missing (apt, with sudo if not root)
	@packaging/system-packages

# Two stamps, so that a demo does not wait for the developers' tools.
$(STAMPS)/run: requirements.lock pyproject.toml
	@packaging/system-packages
	@packaging/make-venv '$(VENV)' '$(PYTHON)'
	$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements.lock
	$(BIN)/python -m pip install $(PIP_FLAGS) --no-deps --no-build-isolation --editable .
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/run
	@packaging/system-packages dbus-daemon e2fsprogs git iproute2 util-linux chromium openssl
	$(BIN)/python -m pip install $(PIP_FLAGS) --require-hashes -r requirements-dev.lock
	@touch $@

web: ## what others wrote for the dashboard's pages (htmx, uPlot), by npm and by hash
	@packaging/vendor-web

demo: $(STAMPS)/run ## a pool of three peers on this machine, mounted at ./.demo/mnt
	@packaging/vendor-web --optional
	@$(BIN)/p2pfs demo start --root '$(DEMO_ROOT)' --mount '$(DEMO_MOUNT)' --peers $(DEMO_PEERS)

demo-stop: ## end the demo pool; its data stays in ./.demo
	@if [ -e '$(DEMO_ROOT)/demo.json' ]; then $(BIN)/p2pfs demo stop --root '$(DEMO_ROOT)'; fi

test: $(STAMPS)/dev ## all tests, also on a machine that has nothing yet (TESTS=tests/unit for some)
	@packaging/vendor-web --optional
	$(BIN)/python $(if $(TESTS),-m pytest $(PYTEST_FLAGS) $(TESTS),tests/halves.py $(PYTEST_FLAGS))

conformance: $(STAMPS)/run ## public programs on a mount, and what fails there on a pass-through (as root, half an hour)
	@packaging/system-packages $(CONFORMANCE_PACKAGES)
	PYTHONPATH=tests $(BIN)/python -m conformance.run $(CONFORMANCE_FLAGS)

conformance-sample: $(STAMPS)/run ## the short form of some of them, three minutes at most
	@packaging/system-packages $(SAMPLE_PACKAGES)
	PYTHONPATH=tests $(BIN)/python -m conformance.run --sample $(CONFORMANCE_FLAGS)

# In a mount namespace of its own, as one that others make meanwhile would keep its mounts alive; slave, so that it does
# not keep theirs.
soak: $(STAMPS)/run ## half an hour of load, faults and upgrades, then everything compared (root; SOAK_FLAGS="--minutes 5 --seed 7")
	PYTHONPATH=tests unshare --mount --propagation slave $(BIN)/python -m soak.run --out '$(SOAK_OUT)' $(SOAK_FLAGS)

check: $(STAMPS)/dev ## format, lint, types, layers
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	@test ! -e packaging/__init__.py || { echo 'packaging/ must not be a Python package' >&2; exit 1; }

format: $(STAMPS)/dev ## reformat and fix what can be fixed
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: $(STAMPS)/run ## the workload on a mount and on a plain directory, with their ratio; then bench-heal
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/run.py --out $(BENCH_OUT)
	$(BIN)/python benchmarks/heal.py --out $(BENCH_OUT) $(HEAL_FLAGS)

bench-heal: $(STAMPS)/run ## how fast a pool with 10 GiB heals after a kill and drains a peer (HEAL_FLAGS="--gib 2")
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/heal.py --out $(BENCH_OUT) $(HEAL_FLAGS)

bench-peers: $(STAMPS)/run ## p2pfs beside MooseFS, in turn, with targets (root; BENCH_FLAGS="--runs 1 --size 64 --files 500")
	@packaging/system-packages $(MOOSEFS_PACKAGES)
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/peers.py --out $(BENCH_OUT) $(BENCH_FLAGS)

bench-link: $(STAMPS)/run ## how full a pool keeps one 100 Mbit/s link, both ways (root; LINK_FLAGS="--runs 1 --size 16")
	@packaging/system-packages iproute2 util-linux
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/link.py --out $(BENCH_OUT) $(LINK_FLAGS)

bench-swarm: $(STAMPS)/run ## what 2, 3 and 8 copies cost a mount with a thin uplink (root; SWARM_FLAGS="--copies 3 --size 8")
	@packaging/system-packages iproute2 util-linux
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/swarm.py --out $(BENCH_OUT) $(SWARM_FLAGS)

bench-scale: $(STAMPS)/run ## what a million files and a thousand peers cost (4 GiB of disk, a few minutes)
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/scale.py --out $(BENCH_OUT) $(SCALE_FLAGS)

bench-search: $(STAMPS)/run ## how long a search takes with 100 000 tagged files (SEARCH_FLAGS="--files 10000")
	@mkdir -p $(BENCH_OUT)
	$(BIN)/python benchmarks/search.py --out $(BENCH_OUT) $(SEARCH_FLAGS)

.PHONY: docs
docs: $(STAMPS)/run ## the pages of docs/reference anew, from the code
	$(BIN)/python packaging/reference.py docs/reference

screenshots: $(STAMPS)/dev web ## the pictures in docs/images, of pools made for that (as root)
	$(BIN)/python packaging/screenshots/terminal.py docs/images
	$(BIN)/python packaging/screenshots/dashboard.py docs/images

deb: web ## the Debian package of this checkout, in ./dist (DEB_VERSION=1.2 for another version)
	@packaging/system-packages $(DEB_PACKAGES)
	@packaging/build-deb '$(DEB_DIR)' $(DEB_VERSION)

test-package: web ## build it, and try it in a machine booted for that (root; 2 GiB of disk, five minutes)
	@packaging/system-packages $(DEB_PACKAGES) $(TRY_PACKAGES)
	@package=$$(packaging/build-deb '$(TRY_DIR)' $(DEB_VERSION)) && $(PYTHON) packaging/try_package.py "$$package" '$(TRY_DIR)'

test-release: ## all tests in a small system of another release of Debian (RELEASE=trixie; as root)
	@packaging/system-packages ca-certificates debootstrap git util-linux
	@packaging/try-release '$(RELEASE)' '$(TRY_RELEASE_DIR)' test

install: requirements.lock web ## the package under PREFIX, units, mount helpers (as root)
	@packaging/system-packages
	@packaging/install --prefix '$(PREFIX)' --units '$(UNIT_DIR)' --helpers '$(HELPER_DIR)' --destdir '$(DESTDIR)' --python '$(PYTHON)'

uninstall: ## undo `make install`; pools and their data stay
	@packaging/install --remove --prefix '$(PREFIX)' --units '$(UNIT_DIR)' --helpers '$(HELPER_DIR)' --destdir '$(DESTDIR)'

lock: ## compile both lock files anew from pyproject.toml
	@packaging/compile-locks $(BIN)

clean: demo-stop ## end the demo and remove everything made here, its data included
	rm -rf --one-file-system '$(DEMO_ROOT)' '$(BENCH_OUT)' '$(SOAK_OUT)' $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache .hypothesis .pytest_cache
	find $(SOURCES) benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
