"""Key slots are opened by a child process; its answers and refusals are those of the format."""

import pytest

from p2pfs.errors import Corrupt, Denied
from p2pfs.format import keys
from p2pfs.vfs.unlock import unlock
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l0


async def test_a_recovery_phrase_opens_its_slot() -> None:
    master = keys.new_master()
    slot, phrase = keys.wrap_recovery(master)
    assert await unlock([slot], phrase) == master


async def test_a_wrong_secret_is_denied() -> None:
    slot, _ = keys.wrap_recovery(keys.new_master())
    _, other = keys.wrap_recovery(keys.new_master())
    with pytest.raises(Denied):
        await unlock([slot], other)


async def test_a_slot_weaker_than_we_accept_is_refused() -> None:
    weak = keys.wrap_passphrase(keys.new_master(), "secret", memory_kib=64, passes=1, lanes=1)
    with pytest.raises(Corrupt):
        await unlock([weak], "secret")
    with pytest.raises(Corrupt):
        await unlock([KeySlot("passphrase", b"nonsense")], "secret")
