"""Walks a volume's tree without a mount: opens names and heads, checks tags. Read only, needs no session."""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.members import find_volume
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.volumes import volume_keys
from p2pfs.errors import NotDirectory, NotFound, UserError
from p2pfs.format.heads import open_head
from p2pfs.format.keys import VolumeKeys
from p2pfs.format.names import check_tag, open_name, seal_name
from p2pfs.runtime.home import NodeHome
from p2pfs.types import ROOT_INODE, InodeId, Kind, VolumeId
from p2pfs.wire.namespace import DirectoryPage, Entry, Lookup, ReadDirectory
from p2pfs.wire.volumes import VolumeInfo

_PAGE: Final = 1000
_DIRECTORY: Final = Kind.DIRECTORY.name.lower()
_TYPES: Final = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.SYMLINK: stat.S_IFLNK,
    Kind.FIFO: stat.S_IFIFO,
    Kind.SOCKET: stat.S_IFSOCK,
    Kind.CHARACTER: stat.S_IFCHR,
    Kind.BLOCK: stat.S_IFBLK,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One name of the volume."""

    raw_path: bytes
    inode: int
    kind: str
    mode: int  # permission bits and type, as stat(2)
    uid: int
    gid: int
    links: int
    size: int
    mtime_ns: int

    @property
    def path(self) -> str:
        """For people: a name that is no UTF-8 is shown with U+FFFD."""
        return self.raw_path.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True)
class _Tree:
    coordinator: connect.Coordinator
    volume: VolumeId
    keys: VolumeKeys


def walk(home: NodeHome, volume: str, path: str, passphrase: Passphrase, emit: Callable[[Item], None]) -> None:
    """Call `emit` for everything below `path` (or for `path` alone, where it is no directory): directories before what
    they hold, names in order within a directory.

    Raises:
        UserError: No such volume or path, or a wrong passphrase.
        Corrupt: A name, tag or head does not authenticate.
    """

    async def talk(coordinator: connect.Coordinator) -> None:
        info = find_volume(await coordinator.call("GET", "/volumes", None, list[VolumeInfo]), volume)
        keys = await volume_keys.open_keys(home, coordinator, info, passphrase)
        tree = _Tree(coordinator, VolumeId(info.volume), keys)
        await _walk(tree, await _start(tree, path), emit)

    connect.converse(home, talk)


async def _start(tree: _Tree, path: str) -> list[Item]:
    """What the walk begins with."""
    parent, prefix = ROOT_INODE, b""
    found: Item | None = None
    for name in filter(None, path.encode("utf-8", "surrogateescape").split(b"/")):
        sealed = seal_name(tree.keys, tree.volume, parent, name)
        try:
            entry = await tree.coordinator.ask(tree.volume, Lookup(parent, sealed), Entry)
        except (NotFound, NotDirectory):
            raise UserError(f"there is no {path} in the volume", exitcodes.NOT_FOUND) from None
        prefix += b"/" + name
        found = _open(tree, parent, entry, prefix, name)
        parent = InodeId(found.inode)
    if found is not None and found.kind != _DIRECTORY:
        return [found]
    return await _entries(tree, parent, prefix)


async def _walk(tree: _Tree, start: list[Item], emit: Callable[[Item], None]) -> None:
    # What is still to do is on a stack of ours: trees may be deeper than Python's.
    waiting = start[::-1]
    while waiting:
        item = waiting.pop()
        emit(item)
        if item.kind == _DIRECTORY:
            waiting += (await _entries(tree, InodeId(item.inode), item.raw_path))[::-1]


async def _entries(tree: _Tree, inode: InodeId, prefix: bytes) -> list[Item]:
    """What a directory holds, by name."""
    items, after, complete = [], 0, False
    while not complete:
        page = await tree.coordinator.ask(tree.volume, ReadDirectory(inode, after, _PAGE), DirectoryPage)
        for entry in page.entries:
            name = open_name(tree.keys, tree.volume, inode, entry.name)
            items.append(_open(tree, inode, entry, prefix + b"/" + name, name))
            after = entry.dentry
        complete = page.complete or not page.entries
    items.sort(key=lambda item: item.raw_path)
    return items


def _open(tree: _Tree, parent: InodeId, entry: Entry, path: bytes, name: bytes) -> Item:
    attributes = entry.attributes
    kind, inode = Kind(attributes.kind), InodeId(attributes.inode)
    check_tag(tree.keys, tree.volume, parent, name, inode, kind, entry.tag)
    head = open_head(tree.keys, tree.volume, inode, attributes.head)
    return Item(
        raw_path=path,
        inode=inode,
        kind=kind.name.lower(),
        mode=_TYPES[kind] | attributes.mode,
        uid=attributes.uid,
        gid=attributes.gid,
        links=attributes.links,
        size=head.size,
        mtime_ns=attributes.mtime_ns,
    )


def as_line(item: Item) -> str:
    """One line as `ls -l` writes it, with the time in UTC."""
    moment = datetime.fromtimestamp(item.mtime_ns / 1e9, UTC).strftime("%Y-%m-%d %H:%M")
    return f"{stat.filemode(item.mode)} {item.links:3} {item.uid:6} {item.gid:6} {item.size:14} {moment} {item.path}"


def as_json_line(item: Item) -> str:
    """One JSON object."""
    return msgspec.json.encode(
        {
            "path": item.path,
            "inode": item.inode,
            "kind": item.kind,
            "mode": item.mode,
            "uid": item.uid,
            "gid": item.gid,
            "links": item.links,
            "size": item.size,
            "mtime_ns": item.mtime_ns,
        }
    ).decode()
