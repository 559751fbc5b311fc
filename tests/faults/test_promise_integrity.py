"""Promise P3 in process: whatever is done to what is stored, a read gives the right bytes or an error.

Every round damages rows, chunks, cache files or answers of one volume and reads all of it through a fresh file system
(or one that has read it before). CI does 9 000 damages; the long run of the promise is

    P2PFS_MUTATIONS=100000 python -m pytest tests/faults/test_promise_integrity.py -k damaged -s

P2PFS_MUTATION_SEED repeats a run: the seed is printed, and a failure names its round.
"""

import os
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
import weakened
from tampered import KINDS, Stage, rounds
from volumes import ROOT_HEAD, VOLUME, filesystem

from p2pfs.chunks.memory import MemoryStore
from p2pfs.errors import Unavailable
from p2pfs.meta.memory import MemoryVolume
from p2pfs.types import ROOT_INODE
from p2pfs.vfs.tree import Owner

pytestmark = pytest.mark.l3

MUTATIONS = int(os.environ.get("P2PFS_MUTATIONS", "9000"))
SEED = os.environ.get("P2PFS_MUTATION_SEED") or secrets.token_hex(4)


async def test_nothing_damaged_is_ever_shown_as_content(tmp_path: Path) -> None:
    stage = await Stage.build(tmp_path)
    tally = await rounds(stage, SEED, damages=MUTATIONS)
    print(f"\nseed {SEED}: {tally}")
    assert not tally.wrong, f"seed {SEED}: {len(tally.wrong)} rounds, first:\n" + "\n".join(tally.wrong[:5])
    assert tally.damages >= MUTATIONS
    assert set(tally.by_kind) == set(KINDS)
    assert tally.outcomes["rounds with refusals"] > tally.rounds / 3, "damages must reach what is read"
    assert tally.outcomes["correct"] > 10 * tally.outcomes["refused"], "and leave the rest readable"


@pytest.mark.parametrize(
    ("weakness", "kind"),
    [
        (weakened.blocks_open_without_tags, "chunks"),
        (weakened.blocks_open_without_tags, "cache"),
        (weakened.rows_open_without_authentication, "rows"),
        (weakened.extents_are_not_counted, "rows"),
        (weakened.inline_data_is_not_compared_with_its_head, "rows"),
        (weakened.heads_may_be_of_another_change, "rows"),
        (weakened.tags_are_not_checked, "rows"),
        (weakened.older_states_are_believed, "rows"),
        (weakened.forgotten_inodes_start_anew, "rows"),
        (weakened.another_inode_may_answer, "answers"),
    ],
)
async def test_a_reader_with_one_check_less_is_caught(
    weakness: Callable[[pytest.MonkeyPatch], None], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await Stage.build(tmp_path)
    weakness(monkeypatch)
    tally = await rounds(stage, "weak", damages=6000, kinds={kind: 1}, until_wrong=True)
    print(f"\n{tally.damages} damages: {tally.wrong}")
    assert tally.wrong


async def test_a_file_cut_by_another_mount_while_it_is_read_gives_no_invented_zeros() -> None:
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    async with (
        filesystem(volume.session(), store) as writer,
        filesystem(volume.session(), store) as reader,
        filesystem(volume.session(), store) as cutter,
    ):
        handle = await writer.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await writer.write(handle, 0, b"x" * 100_000)
        await writer.fsync(handle)
        opened = await reader.open(handle.inode.id)
        await cutter.attributes.set(handle.inode.id, size=50_000)
        assert bytes(await reader.read(opened, 0, 100_000)) == b"x" * 50_000


async def test_a_chunk_that_is_nowhere_is_no_missing_file() -> None:
    volume, store = MemoryVolume(root_head=ROOT_HEAD, volume=VOLUME), MemoryStore()
    async with filesystem(volume.session(), store) as fs:
        handle = await fs.create(ROOT_INODE, b"f", 0o644, Owner(0, 0))
        await fs.write(handle, 0, b"x" * 100_000)
        await fs.fsync(handle)
    store.chunks.clear()
    async with filesystem(volume.session(), store) as fs:
        with pytest.raises(Unavailable):
            await fs.read(await fs.open(handle.inode.id), 0, 1000)
