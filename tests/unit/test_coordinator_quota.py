"""A volume does not grow beyond its quota, whatever mounts do; and what they acknowledged is not lost by it."""

from pathlib import Path

import msgspec
import pytest
from coordination import Pool, pool, volume_message

from p2pfs.coordinator.delegations import ALONE_S, MARGIN_S, RETURN_S
from p2pfs.errors import Denied, Invalid, OverQuota, Overruled
from p2pfs.format.keys import guard_hash
from p2pfs.meta.quotas import BEYOND_BYTES, BEYOND_FILES, Quota
from p2pfs.net.identity import Identity
from p2pfs.types import ROOT_INODE, SessionId, VolumeId
from p2pfs.wire import codec
from p2pfs.wire.answers import unwrap
from p2pfs.wire.delegations import ReturnDelegation
from p2pfs.wire.namespace import Applied, Batch, Commit, GetSpace, Make, Operation, Space, Unlink
from p2pfs.wire.volumes import OpenSession, VolumeSettings

pytestmark = pytest.mark.l1

VOLUME, GUARD = VolumeId(7), b"g" * 32


class Mount:
    """A session that makes small files."""

    def __init__(self, p: Pool, identity: Identity) -> None:
        self.p, self.identity, self.seq = p, identity, 0

    async def open(self) -> "Mount":
        grant = await self.p.services.sessions.open(self.identity, VOLUME, OpenSession("host", "/mnt"))
        self.session, self.next = SessionId(grant.session), grant.first_id
        return self

    async def apply(self, *operations: Operation) -> Applied:
        self.seq += 1
        batch = Batch(self.seq, 0, list(operations))
        return codec.decode(await self.p.services.sessions.apply(self.session, batch), Applied)

    async def make(self, name: bytes, size: int = 0) -> int:
        """A file with so many bytes inline."""
        self.next += 2
        make = Make(ROOT_INODE, name, self.next - 2, b"tag", self.next - 1, 1, 0o644, 0, 0, 0, b"head", 1)
        commit = [Commit(self.next - 1, 0, size, b"head", 2, inline=b"sealed")] if size else []
        await self.apply(make, *commit)
        return self.next - 1

    async def space(self) -> Space:
        answers = await self.p.services.questions.answer(self.identity, VOLUME, [GetSpace()])
        return unwrap(answers[0], Space)


async def limited(p: Pool, *, most_bytes: int = 0, most_files: int = 0) -> Mount:
    await p.peers(2)
    message = msgspec.structs.replace(volume_message(VOLUME), slot_guard=guard_hash(GUARD))
    await p.services.volumes.create(p.identity(), message)
    await p.services.volumes.configure(
        VOLUME, VolumeSettings(quota_bytes=most_bytes, quota_files=most_files, guard=GUARD)
    )
    return await Mount(p, p.identity()).open()


async def test_bytes_and_files_are_limited_inline_ones_too(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await limited(p, most_bytes=100, most_files=4)
        first = await mount.make(b"a", 60)
        with pytest.raises(OverQuota):
            await mount.make(b"b", 41)
        await mount.make(b"b", 40)
        space = await mount.space()
        assert (space.used, space.inodes, space.quota_bytes, space.quota_files) == (100, 3, 100, 4)
        await mount.make(b"c")
        with pytest.raises(OverQuota):
            await mount.make(b"d")
        await mount.apply(Unlink(ROOT_INODE, b"a", first, False, 3))
        await mount.make(b"d", 60)


async def test_what_is_beyond_it_already_can_shrink_and_be_changed(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount = await limited(p)
        number = await mount.make(b"a", 100)
        await p.services.volumes.configure(VOLUME, VolumeSettings(quota_bytes=50, quota_files=1), is_admin=True)
        await mount.apply(Commit(number, 1, 100, b"head", 3, inline=b"other"))
        with pytest.raises(OverQuota):
            await mount.apply(Commit(number, 2, 101, b"head", 3, inline=b"other"))
        await mount.apply(Commit(number, 2, 70, b"head", 3, inline=b"less"))
        await p.services.volumes.configure(VOLUME, VolumeSettings(quota_bytes=0, quota_files=0), is_admin=True)
        await mount.make(b"b", 1000)


async def test_only_the_key_or_an_admin_sets_it_and_only_to_what_can_be(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        await limited(p, most_bytes=10)
        with pytest.raises(Denied):
            await p.services.volumes.configure(VOLUME, VolumeSettings(quota_bytes=0))
        with pytest.raises(Invalid):
            await p.services.volumes.configure(VOLUME, VolumeSettings(quota_bytes=-1, guard=GUARD))
        assert [volume.quota_bytes for volume in p.services.volumes.visible(p.identity())] == [10]


async def delegated(p: Pool) -> tuple[Mount, int]:
    """A mount that holds the delegation of a volume with a quota of two inodes, and has brought it far beyond that."""
    mount = await limited(p, most_files=2)
    epoch = (await p.services.delegations.ask(mount.session, 0)).epoch
    assert epoch
    for _ in range(3):
        await make_many(p, mount, 500, epoch)
    assert (await mount.space()).inodes > 2 + BEYOND_FILES
    return mount, epoch


async def make_many(p: Pool, mount: Mount, count: int, epoch: int) -> None:
    mount.seq += 1
    ids = (await p.services.sessions.grant_ids(mount.session, 2 * count)).first_id
    makes = [
        Make(ROOT_INODE, b"%d" % n, n, b"tag", n + 1, 1, 0o644, 0, 0, 0, b"head", 1)
        for n in range(ids, ids + 2 * count, 2)
    ]
    await p.services.sessions.apply(mount.session, Batch(mount.seq, 0, list(makes), epoch))


async def test_what_a_mount_with_the_delegation_acknowledged_is_taken_and_it_has_to_return_it(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount, epoch = await delegated(p)
        delegations = p.services.delegations
        p.clock.advance(RETURN_S - 1)
        assert (await delegations.ask(mount.session, epoch)).epoch == epoch  # it has time to send what is left
        await make_many(p, mount, 10, epoch)
        p.clock.advance(1)
        assert not (await delegations.ask(mount.session, epoch)).epoch
        await delegations.give_back(mount.session, ReturnDelegation(epoch, 0.0))
        with pytest.raises(OverQuota):
            await mount.make(b"one more")
        p.clock.advance(2 * ALONE_S)
        assert not (await delegations.ask(mount.session, 0)).epoch  # as long as it holds too much
        await p.services.volumes.configure(VOLUME, VolumeSettings(quota_files=0), is_admin=True)
        assert (await delegations.ask(mount.session, 0)).epoch


async def test_who_goes_on_long_after_it_was_to_return_it_is_fenced(tmp_path: Path) -> None:
    async with pool(tmp_path) as p:
        mount, epoch = await delegated(p)
        p.clock.advance(RETURN_S - 1)
        lasts_s = (await p.services.delegations.ask(mount.session, epoch)).lasts_s
        p.clock.advance(lasts_s + MARGIN_S)
        await make_many(p, mount, 1, epoch)
        with pytest.raises(Overruled):
            await make_many(p, mount, 1, epoch)


async def test_who_was_away_and_comes_back_with_too_much_is_not_fenced(tmp_path: Path) -> None:
    """It could not hear of a new limit, nor renew."""
    async with pool(tmp_path) as p:
        mount = await limited(p)
        epoch = (await p.services.delegations.ask(mount.session, 0)).epoch
        await p.services.volumes.configure(VOLUME, VolumeSettings(quota_files=2), is_admin=True)
        p.clock.advance(3600)
        for _ in range(5):
            await make_many(p, mount, 500, epoch)


def test_the_room_beyond_is_for_delegated_batches_only() -> None:
    quota = Quota(100, 0, 100, 1)
    assert not quota.is_exceeded
    assert not quota.is_far_exceeded(more_bytes=BEYOND_BYTES, more_files=1)
    assert quota.is_far_exceeded(more_bytes=BEYOND_BYTES + 1, more_files=1)
    with pytest.raises(OverQuota):
        quota.check(more_bytes=1, more_files=0)
    quota.check(more_bytes=0, more_files=10)
    assert Quota(0, 5, 1 << 40, 6).is_exceeded
