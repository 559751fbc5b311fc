"""Copies that peers pass on among themselves, on a pool of real processes."""

import os
import signal
import time
from collections.abc import Iterator

import pytest
from pools import DemoPool, demo_pool

pytestmark = pytest.mark.l5

SIZE = 12 << 20
PEERS = 4
WAIT_S = 30.0
LONGEST_S = 30.0
"""To write a file while something fails, on a machine that does other things too."""

ROUNDS = 6
"""Files written until one is passed on by the peer that is meant: others may be quicker."""


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    settings = {"distribution": "swarm", "repair_delay": "1h"}
    with demo_pool(tmp_path_factory.mktemp("swarm"), peers=PEERS, replicas=3, settings=settings) as started:
        yield started


def write(pool: DemoPool, name: str) -> bytes:
    content = os.urandom(SIZE)
    with (pool.mount / name).open("wb", buffering=0) as file:
        file.write(content)
        os.fsync(file.fileno())
    return content


def by_copies(pool: DemoPool) -> dict[int, int]:
    return {int(copies): count for copies, count in pool.status()["chunks"]["by_copies"].items()}


def wait_for_copies(pool: DemoPool, copies: int) -> None:
    ends_s = time.monotonic() + WAIT_S
    while min(by_copies(pool)) < copies:
        assert time.monotonic() < ends_s, by_copies(pool)
        time.sleep(0.1)


def test_the_mount_sends_each_chunk_once_and_all_copies_come_about(pool: DemoPool) -> None:
    before = pool.stats()
    content = write(pool, "once")
    assert min(by_copies(pool)) >= 2  # acknowledged
    wait_for_copies(pool, 3)
    after = pool.stats()
    chunks = sum(by_copies(pool).values())
    assert chunks >= SIZE >> 20
    sent = after["copies_sent"] - before["copies_sent"]
    assert chunks <= sent <= chunks + 2  # on a busy machine a copy may be taken for late, and sent as well
    assert after["copies_passed_on"] - before["copies_passed_on"] == 3 * chunks - sent
    pool.remount_empty()
    assert (pool.mount / "once").read_bytes() == content


@pytest.mark.parametrize("how", ["flipped", "missing", "slow-missing"])
def test_a_holder_that_gives_others_nothing_or_lies_costs_little_and_all_copies_come_about(
    pool: DemoPool, how: str
) -> None:
    hostile = pool.make_hostile("peer-1")
    try:
        pool.remount_empty()
        hostile.be(how)
        for _ in range(ROUNDS):
            began_s = time.monotonic()
            content = write(pool, how)
            assert time.monotonic() - began_s < LONGEST_S
            wait_for_copies(pool, 3)
            if hostile.count:
                break
        else:
            pytest.fail("nobody asked it for anything")
        hostile.be("")
        pool.remount_empty()
        assert (pool.mount / how).read_bytes() == content
    finally:
        pool.kill("peer-1")
        pool.start()


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_writing_goes_on_when_a_peer_ends_mid_way_and_what_was_acknowledged_is_there_without_it(
    pool: DemoPool, how: signal.Signals
) -> None:
    content = write(pool, "before")
    pool.signal("peer-1", how)
    try:
        began_s = time.monotonic()
        more = write(pool, "after")
        assert time.monotonic() - began_s < LONGEST_S
        pool.remount_alone()
        assert (pool.mount / "before").read_bytes() == content
        assert (pool.mount / "after").read_bytes() == more
    finally:
        if how is signal.SIGSTOP:
            pool.signal("peer-1", signal.SIGCONT)
        pool.start()
