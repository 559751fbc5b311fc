"""Finds the newest backup that the recovery kit opens, on all peers that answer, and rebuilds the database from it.

No peer is believed: every part must be signed by the coordinator, sealed to this kit, and follow the one before it.
What one peer has damaged or lacks is taken from another; where no peer has it, the backup counts up to the last state
before it, and if there is none, the generation before. Making a home of it is `restored_home`'s business.
"""

import os
import sqlite3
import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import trio

from p2pfs.coordinator.authority import key_pem, to_pem
from p2pfs.errors import Corrupt, Denied, Misuse, NotFound, PoolError, Unavailable
from p2pfs.format.backups import FIRST, check_part, decode_part, open_part, part_hash
from p2pfs.format.kits import Kit
from p2pfs.meta import members
from p2pfs.meta.pages import Rebuild
from p2pfs.net.addresses import RELAY
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.dialled import dial
from p2pfs.net.identity import Identity, identity_of, joining_context, verify_leaf
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.parts import PartFiles
from p2pfs.types import NodeId, Role
from p2pfs.wire.backups import IMAGE, Content, Held, Part, generation_name, incarnation_of

_CONNECT_S: Final = 5.0
_ANSWER_S: Final = 60.0
_STALL_S: Final = 10.0
MOST_LIES: Final = 3
"""Backups that a peer says it has and nobody can show the beginning of: beyond these its word counts last."""

Say = Callable[[str], None]


@dataclass(slots=True)
class Source:
    """A peer that answered, and what it says it has."""

    endpoint: Endpoint
    held: dict[int, Held]
    lies: int = 0
    took_s: float = 0.0  # for the last part

    @property
    def is_trusted(self) -> bool:
        return self.lies < MOST_LIES

    def __str__(self) -> str:
        return self.endpoint.addresses[0]


@dataclass(slots=True)
class Found:
    """A backup that was fetched, checked and rebuilt at `database`."""

    generation: int
    number: int  # of the part whose state it is
    state_s: float  # UTC
    files: dict[str, bytes] = field(repr=False)
    database: Path
    sources: list[str]
    incarnation: int  # the highest one that the coordinator ever signed a backup under, as far as was seen


class Restore:
    """One attempt. `directory` must be there and is for its files; `say` tells a person what is passed over."""

    def __init__(self, kit: Kit, directory: Path, *, clock: Clock, say: Say) -> None:
        self._kit = kit
        self._directory = directory
        self._clock = clock
        self._say = say
        self._context = _context(kit)
        self._verify = verify_leaf(kit.ca_key)
        self._client = Client(self._context, kit.pool, clock=clock, connect_s=_CONNECT_S, verify=self._verify)
        self._parts = PartFiles(directory / "parts", is_durable=False)
        self._parts.clear()  # of an attempt that was killed
        self._sources: dict[NodeId, Source] = {}
        self._asked: set[str] = set()  # addresses
        self._useless: set[int] = set()  # generations
        self._incarnation = 0

    async def find(self, addresses: Iterable[str]) -> Found:
        """The newest valid backup of these peers, and of those it knows of.

        Raises:
            Unavailable: None of the peers answers.
            NotFound: None of them has a valid backup.
        """
        async with self._client:
            await self._ask(addresses)
            if not self._sources:
                raise Unavailable("no peer of this pool answers there")
            while True:
                generation = self._newest()
                if generation is None:
                    raise NotFound("no peer that answers has a backup that this kit opens")
                found = await self._take(generation)
                if found is None:
                    self._useless.add(generation)
                    continue
                known = await trio.to_thread.run_sync(_addresses, found.database)
                if not await self._ask(known - self._asked):
                    return found
                self._useless.clear()  # those who came may have what the others damaged or made up
                if self._is_newest(found):
                    return found

    async def expect_no_coordinator(self, addresses: Iterable[str]) -> None:
        """Whether the coordinator is really gone. Raises Denied when one of this pool answers."""
        for address in addresses:
            try:
                await self._meet(address, Role.COORDINATOR)
            except PoolError:
                continue
            raise Denied(f"the pool's coordinator still answers at {address}: stop it first")

    # ---- peers ------------------------------------------------------------------------------------------------------

    async def _ask(self, addresses: Iterable[str]) -> bool:
        """Meet the peers at these addresses, all at once; whether there are new ones among them."""
        before = len(self._sources)
        async with trio.open_nursery() as nursery:
            for address in addresses:
                self._asked.add(address)
                nursery.start_soon(self._add, address)
        return len(self._sources) > before

    async def _add(self, address: str) -> None:
        try:
            identity = await self._meet(address, Role.PEER)
            endpoint = Endpoint(identity.node, Role.PEER, (address,))
            held = await self._client.call(
                endpoint, "GET", "/backups", None, list[Held], timeout_s=_ANSWER_S, idle_s=_STALL_S
            )
        except PoolError as error:
            self._say(f"{address}: {error}")
            return
        self._sources[identity.node] = Source(endpoint, {one.generation: one for one in held})

    async def _meet(self, address: str, role: Role) -> Identity:
        """Who answers there, if it is a node of this pool with that role."""

        def check(certificate: bytes) -> Identity:
            self._verify(certificate)
            identity = identity_of(certificate)
            if identity.pool != self._kit.pool or role not in identity.roles:
                raise Denied(f"no {role} of this pool answers")
            if identity.is_expired(self._clock.time()):
                raise Denied("its certificate has expired")
            return identity

        endpoint = Endpoint(NodeId(""), role, (address,))
        connection = await dial(endpoint, self._context, check, connect_s=_CONNECT_S)
        await connection.aclose()
        return connection.identity

    # ---- backups ----------------------------------------------------------------------------------------------------

    def _newest(self) -> int | None:
        """The newest one that was not tried, of the peers that are trusted or else of any."""
        told = {
            (source.is_trusted, number)
            for source in self._sources.values()
            for number, held in source.held.items()
            if held.last_state >= 0 and number not in self._useless
        }
        return max(told, default=(False, None))[1]

    def _is_newest(self, found: Found) -> bool:
        """Whether nobody says that it has more. Others' word is checked by trying."""
        newest = self._newest()
        most = max((s.held[found.generation].last_state for s in self._having(found.generation, 0)), default=-1)
        return newest == found.generation and most <= found.number

    def _having(self, generation: int, number: int) -> list[Source]:
        """Who says it has this part; last who made others up, or kept us waiting for seconds."""
        having = (
            source
            for source in self._sources.values()
            if generation in source.held and source.held[generation].parts > number
        )
        return sorted(having, key=lambda source: (source.lies, int(source.took_s)))

    async def _take(self, generation: int) -> Found | None:
        """Fetch and rebuild what can be had of a generation; None when it cannot be restored."""
        number, previous, state_s, last = 0, FIRST, 0.0, -1
        used: dict[str, None] = {}
        while (got := await self._fetch(generation, number, previous)) is not None:
            part, data, source = got
            used[source] = None
            self._incarnation = max(self._incarnation, incarnation_of(generation))
            if part.is_state:
                last, state_s = number, part.state_s
            self._parts.keep(generation, number, data, is_state=part.is_state)
            number, previous = number + 1, part_hash(data)
        if not number:
            for liar in self._having(generation, 0):
                liar.lies += 1
        if last < 0:
            self._say(f"backup {generation_name(generation)} is passed over: no peer has all of its image")
            return None
        path = self._directory / "meta.sqlite"
        try:
            files = await trio.to_thread.run_sync(self._rebuild, generation, last, path)
        except Corrupt as error:
            self._say(f"backup {generation_name(generation)} is passed over: {error}")
            return None
        return Found(generation, last, state_s, files, path, list(used), self._incarnation)

    async def _fetch(self, generation: int, number: int, previous: bytes) -> tuple[Part, bytes, str] | None:
        """The part, from whichever peer has a valid one."""
        for source in self._having(generation, number):
            path, began_s = f"/backups/{generation_name(generation)}/{number}", trio.current_time()
            try:
                reply = await self._client.request(source.endpoint, "GET", path, timeout_s=_ANSWER_S, idle_s=_STALL_S)
                data = bytes(reply.body)
                part = decode_part(data)
                check_part(
                    part,
                    pool=self._kit.pool,
                    generation=generation,
                    number=number,
                    previous=previous,
                    verify=self._kit.verify_key,
                )
            except PoolError as error:
                self._say(f"{source}: part {number} of backup {generation_name(generation)}: {error}")
                continue
            finally:
                source.took_s = trio.current_time() - began_s
            return part, data, str(source)
        return None

    def _rebuild(self, generation: int, last: int, path: Path) -> dict[str, bytes]:
        """The database from parts 0 to `last`; the files of number 0. Blocking. Raises Corrupt."""
        path.unlink(missing_ok=True)
        rebuild, files = Rebuild(path), dict[str, bytes]()
        try:
            for number in range(last + 1):
                part = decode_part(self._parts.read(generation, number))
                content = open_part(part, self._kit.box_key)
                files = files or content.files
                _put(rebuild, part, content)
        finally:
            rebuild.close()
        _check(path)
        return files


def _put(rebuild: Rebuild, part: Part, content: Content) -> None:
    pages = dict(content.pages)
    if not all(number > 0 and len(page) == content.page_bytes for number, page in pages.items()):
        raise Corrupt("a page of the database is none")
    rebuild.put(content.page_bytes, content.database_pages, pages, is_image=part.kind == IMAGE)


def _check(path: Path) -> None:
    """Raises Corrupt when SQLite finds anything wrong."""
    connection = sqlite3.connect(path)
    try:
        if connection.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            raise Corrupt("the database in it is damaged")
    except sqlite3.Error as error:
        raise Corrupt(f"the database in it is damaged: {error}") from None
    finally:
        connection.close()


def _addresses(path: Path) -> set[str]:
    """Where the peers of this database were heard of last."""
    connection = sqlite3.connect(path)
    try:
        return {address for peer in members.peers(connection) for address in peer.addresses if address != RELAY}
    except (sqlite3.Error, ValueError, Misuse):
        return set()
    finally:
        connection.close()


def _context(kit: Kit) -> ssl.SSLContext:
    """TLS for dialling with the kit's certificate. OpenSSL reads files only: this one is in memory."""
    context = joining_context()
    file = os.memfd_create("p2pfs", os.MFD_CLOEXEC)
    try:
        os.write(file, key_pem(kit.tls_key) + to_pem(kit.certificate))
        context.load_cert_chain(f"/proc/self/fd/{file}")
    except (ssl.SSLError, ValueError):
        raise Corrupt("the recovery kit's certificate and key do not belong together") from None
    finally:
        os.close(file)
    return context
