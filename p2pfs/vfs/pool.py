"""The pool as a client node sees it, and which key it saw a volume have.

Made by `attach.connect`; used by whoever asks the coordinator for a client. Knows no session and no store.
"""

import secrets
import ssl
from pathlib import Path

import trio

from p2pfs import exitcodes
from p2pfs.errors import Corrupt, Denied, UserError
from p2pfs.format.keys import VolumeKeys
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.forwarding import KnownPeers, endpoints
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.types import VolumeId, volume_name
from p2pfs.vfs.unlock import unlock
from p2pfs.wire.membership import PoolMap
from p2pfs.wire.volumes import VolumeInfo, VolumeSlots, is_name


class Pool:
    """The pool as a client node sees it: its coordinator, the current map, requests by name."""

    def __init__(
        self,
        client: Client,
        coordinator: Endpoint,
        io_timeout_s: float,
        *,
        contexts: tuple[ssl.SSLContext, ...] = (),
        known: KnownPeers | None = None,
    ) -> None:
        """`contexts` are the client's, for who renews this node's certificate; in `known` the map's peers are kept."""
        self.client, self.coordinator, self.io_timeout_s = client, coordinator, io_timeout_s
        self.contexts = contexts
        self._known = known
        self._map: PoolMap | None = None

    @property
    def is_new(self) -> bool:
        """Whether no map was fetched yet."""
        return self._map is None

    @property
    def map(self) -> PoolMap:
        assert self._map is not None, "fetch_map comes first"
        return self._map

    async def fetch_map(self) -> None:
        """Raises PoolError. An answer that was overtaken by a newer one changes nothing."""
        answer = await self.client.call(self.coordinator, "GET", "/map", None, PoolMap, timeout_s=self.io_timeout_s)
        if self._map is None or answer.version >= self._map.version:
            self._map = answer
            if self._known is not None:
                await trio.to_thread.run_sync(self._known.save, endpoints(answer))

    async def volume(self, name: str) -> VolumeInfo:
        """Raises UserError (NOT_FOUND) when this node may use no volume of that name, and Corrupt when the coordinator
        calls it what no volume can be called: the name gets into mount tables."""
        volumes = await self.client.call(
            self.coordinator, "GET", "/volumes", None, list[VolumeInfo], timeout_s=self.io_timeout_s
        )
        for volume in volumes:
            if name == volume_name(VolumeId(volume.volume)) or (name == volume.name and not volume.access):
                if not is_name(volume.name):
                    raise Corrupt(f"the coordinator gives a volume a name that none can have: {volume.name[:99]!a}")
                return volume
        raise UserError(
            f"there is no volume “{name}” for this node: `p2pfs volume list` shows those there are",
            exitcodes.NOT_FOUND,
        )

    async def keys(self, home: NodeHome, volume: VolumeInfo, passphrase: str) -> VolumeKeys:
        """The volume's keys, opened with a passphrase or recovery phrase and checked against what was pinned.

        Raises:
            UserError: WRONG_PASSPHRASE.
            Corrupt: The coordinator serves the key slots of something else.
        """
        path = f"/volumes/{volume_name(VolumeId(volume.volume))}/slots"
        slots = await self.client.call(self.coordinator, "GET", path, None, VolumeSlots, timeout_s=self.io_timeout_s)
        try:
            master = await unlock(slots.slots, passphrase)
        except Denied:
            raise UserError(
                f"this passphrase does not open “{volume.name}”: try again, or use its recovery phrase",
                exitcodes.WRONG_PASSPHRASE,
            ) from None
        keys = VolumeKeys.derive(master)
        pin(home.path, VolumeId(volume.volume), keys.check)
        if keys.check != volume.check:
            raise Corrupt(f"the coordinator names another key than the one that opens “{volume.name}”")
        return keys


def pin(home: Path, volume: VolumeId, check: bytes) -> None:
    """Remember which key a volume has; raises Corrupt if it is not the one seen first."""
    path = home / "volumes" / f"{volume_name(volume)}.check"
    try:
        pinned = path.read_bytes()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_durably(path, check)
        return
    if not secrets.compare_digest(pinned, check):
        raise Corrupt(f"volume {volume_name(volume)} has another key than when this node first opened it")
