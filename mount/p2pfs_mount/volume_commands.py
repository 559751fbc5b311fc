"""Changing the settings of the volume that is mounted, for commands: the mount has the key that this takes."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from p2pfs.errors import NotFound
from p2pfs.types import VolumeId
from p2pfs.wire.volumes import VolumeInfo, VolumeSettings
from p2pfs_mount.life import Command, Say

Request = dict[str, Any]


class VolumeCommands:
    """Those of one mount of `volume`."""

    def __init__(self, volume: VolumeId, configure: Callable[[VolumeSettings], Awaitable[VolumeInfo]]) -> None:
        self._volume, self._configure = volume, configure

    def table(self) -> Mapping[str, Command]:
        """By name."""
        return {"volume set": self.configure}

    async def configure(self, request: Request, _say: Say) -> None:
        """{"volume": id, "settings": {name on the wire: value}} → nothing. The key stays here."""
        if request["volume"] != self._volume:
            raise NotFound("another volume is mounted here")
        await self._configure(VolumeSettings(**request["settings"]))
