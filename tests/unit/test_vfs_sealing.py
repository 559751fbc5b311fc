"""Sealing stalls whoever else waits for the event loop: where it is slow, it is done in a thread."""

import threading
from collections.abc import Callable

import pytest
from volumes import KEYS, ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import MIB, ROOT_INODE
from p2pfs.vfs import uploads
from p2pfs.vfs.limits import Limits, WriteLimits
from p2pfs.vfs.tree import Owner
from p2pfs.vfs.uploads import SLOW_SEAL_S, seals_slowly

pytestmark = pytest.mark.l0


def taking(*seconds: float) -> Callable[[], float]:
    """A clock, for work that takes so long each time."""
    told = []
    for now, takes in enumerate(seconds):
        told += [float(now), now + takes]
    readings = iter(told)
    return lambda: next(readings)


def test_the_best_of_three_tries_counts() -> None:
    assert not seals_slowly(KEYS, now_s=taking(SLOW_SEAL_S / 4))
    assert not seals_slowly(KEYS, now_s=taking(1.0, 1.0, SLOW_SEAL_S / 4))
    assert seals_slowly(KEYS, now_s=taking(SLOW_SEAL_S * 2, SLOW_SEAL_S * 2, SLOW_SEAL_S * 2))


@pytest.mark.parametrize("is_slow", [False, True])
async def test_a_slow_processor_seals_in_a_thread(is_slow: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seal, in_thread = uploads.seal, []

    def watched(*arguments: object, **options: object) -> object:
        in_thread.append(threading.current_thread() is not threading.main_thread())
        return seal(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(uploads, "seal", watched)
    volume, content = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), bytes(range(256)) * (MIB // 256)
    limits = Limits(write=WriteLimits(seal_in_thread=is_slow))
    async with filesystem(volume.session(), MemoryStore(), limits=limits) as fs:
        handle = await fs.create(ROOT_INODE, b"a", 0o644, Owner(0, 0))
        for at in range(3):
            await fs.write(handle, at * MIB, content)
        await fs.fsync(handle)
        assert bytes(await fs.read(handle, MIB, MIB)) == content
    assert in_thread == 3 * [is_slow]
