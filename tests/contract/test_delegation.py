"""A delegated volume over the network and through the thread that writes: turns, and what a fence leaves."""

from pathlib import Path

import pytest
import trio
from namespaces import Hand, RemoteWorld, served

from p2pfs.coordinator.delegations import MARGIN_S
from p2pfs.errors import Overruled
from p2pfs.meta.remote import RemoteNamespace
from p2pfs.types import ROOT_INODE, DentryId

pytestmark = pytest.mark.l1

LASTS_S = 30.0


async def mounted(world: RemoteWorld) -> RemoteNamespace:
    namespace = await world.mount()
    assert isinstance(namespace, RemoteNamespace)
    return namespace


async def names(namespace: RemoteNamespace) -> set[bytes]:
    page = await namespace.directory(ROOT_INODE, DentryId(0), 1000)
    return {entry.name for entry in page.entries}


async def test_two_mounts_change_one_volume_in_turn(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        a = await mounted(world)
        epoch = (await a.delegate(0)).epoch
        assert epoch
        await a.apply_under(epoch, [await Hand(a).make_operation(b"one")])
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                b = await mounted(world)
                assert (await a.events(20.0)).recall == epoch
                nursery.start_soon(Hand(b).make, b"two")
                await a.apply_under(epoch, [await Hand(a).make_operation(b"three")])
                await a.return_delegation(epoch, 0.0)
        with pytest.raises(Overruled):
            await a.apply_under(epoch, [await Hand(a).make_operation(b"four")])
        assert not a.is_fenced
        assert await names(a) == {b"one", b"two", b"three"}


async def test_the_answer_to_a_holder_repeats_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        a = await mounted(world)
        epoch = (await a.delegate(0)).epoch
        applied = await a.apply_under(epoch, [await Hand(a).make_operation(b"one")])
        assert not applied.attributes
        assert (await a.apply([await Hand(a).make_operation(b"two")])).attributes


async def test_a_fence_that_races_with_batches_leaves_a_prefix(tmp_path: Path) -> None:
    async with served(tmp_path) as world:
        a = await mounted(world)
        epoch = (await a.delegate(0)).epoch
        b = await mounted(world)
        world.clock.advance(LASTS_S + MARGIN_S)
        operations = [await Hand(a).make_operation(b"%d" % number) for number in range(2000)]
        done: set[bytes] = set()
        going = trio.Event()

        async def work() -> None:
            for operation in operations:
                try:
                    await a.apply_under(epoch, [operation])
                except Overruled:
                    return
                done.add(operation.name)
                going.set()

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work)
                await going.wait()
                await Hand(b).make(b"fence")
        assert 0 < len(done) < len(operations)
        assert await names(b) == {b"fence", *done}
