"""The peer put together: home → store → server, heartbeat, orders, trash, scrub.

Wiring, and what is done with what the coordinator answers. `daemon` runs it as a process.
"""

import logging
from functools import partial
from pathlib import Path
from typing import Final

import trio

from p2pfs import exitcodes
from p2pfs.chunks.directory import DirectoryStore
from p2pfs.chunks.traffic import Traffic
from p2pfs.errors import Corrupt, NoSpace, PoolError, Unavailable, UserError
from p2pfs.net.addresses import bound_addresses, open_listeners, parse_address
from p2pfs.net.advertising import advertised
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.dialled import connect_by_tcp
from p2pfs.net.enrolment import keep_renewed
from p2pfs.net.exposition import expose
from p2pfs.net.forwarding import Accepting
from p2pfs.net.identity import Credentials, Revocations, client_context, server_context
from p2pfs.net.pace import BURST_S, Pace
from p2pfs.net.server import Server
from p2pfs.runtime import worker
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.runtime.rates import RateLimit
from p2pfs.types import Role
from p2pfs.wire.membership import HeartbeatAnswer
from p2pfs.wire.membership import Revocations as RevocationList
from p2pfs.wire.routes import PEER_ROUTES
from p2pfs_peerd import control, metrics
from p2pfs_peerd.absence import Absence
from p2pfs_peerd.app import PeerApp
from p2pfs_peerd.backups import Backups
from p2pfs_peerd.farewell import Farewell
from p2pfs_peerd.fetches import FETCH_S, IDLE_S, Fetches
from p2pfs_peerd.forward import Forwarder
from p2pfs_peerd.heartbeat import Pulse
from p2pfs_peerd.housekeeping import Housekeeping
from p2pfs_peerd.offer import Offer
from p2pfs_peerd.offers import Offers
from p2pfs_peerd.orders import OrderRunner
from p2pfs_peerd.pulling import Fellows, MapPuller
from p2pfs_peerd.relay import RelayListener
from p2pfs_peerd.revoked import RevocationFile
from p2pfs_peerd.scrub import Scrubber
from p2pfs_peerd.signer import Signer
from p2pfs_peerd.tokens import TokenBook
from p2pfs_peerd.whereabouts import Whereabouts

log = logging.getLogger(__name__)

DEFAULT_LISTEN: Final = ":9471"


class Peerd:
    """Everything of one peer that runs. Made by `assemble`."""

    def __init__(
        self,
        home: NodeHome,
        settings: Settings,
        record: NodeRecord,
        store: DirectoryStore,
        scrubber: Scrubber,
        signer: Signer,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._record = record
        self._store = store
        self.scrubber = scrubber
        self._signer = signer
        self._clock = clock
        self._root = chunk_root(home)
        self._backups = Backups(
            home.path / "backups", record.pool, offered=lambda: self._offered(), reserve=settings.reserve, clock=clock
        )
        self._offer = Offer(store, self._root, settings, lambda: self._backups.bytes)
        self._home = home
        self._pace = Pace.unlimited(clock)
        self._offers = Offers(home, settings, self._offer, self._pace, clock)
        self._server_context = server_context(_credentials(home))
        self._client_context = client_context(_credentials(home))
        self._tokens = TokenBook(record.pool, record.peer, clock)
        self._revocations = Revocations()
        self._revoked = RevocationFile(home.path / "revocations")
        self._unsaved: RevocationList | None = None
        self._traffic = Traffic[str](clock.time)
        self._app = PeerApp(store, self._tokens, self._traffic.count)
        self._fetches = Fetches(self._app, self._tokens, number=record.peer)
        self._absence = Absence(
            record.pool,
            record.peer,
            store,
            self._app,
            path=home.path / "roll",
            free=self._free,
            share=settings.elect_share,
            clock=clock,
        )
        self._serving_client = self._client()
        self._forwarder = Forwarder(
            self._serving_client,
            self._coordinator(),
            record.node,
            Accepting(record.node, lambda stream: self.server.accept(stream)),
            is_open=lambda: self._app.is_open,
        )
        self.server = Server(
            PEER_ROUTES,
            {
                **self._app.handlers(),
                **self._fetches.handlers(),
                **self._backups.handlers(),
                **self._absence.handlers(),
                **self._forwarder.handlers(),
            },
            context=self._server_context,
            pool=record.pool,
            revocations=self._revocations,
            clock=clock,
            pace=self._pace,
        )
        self._orders: OrderRunner | None = None
        self._farewell: Farewell | None = None
        self.addresses: list[str] = []
        self.metrics: list[str] = []  # where Prometheus may ask

    async def serve(self, *, task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, beat and tidy until cancelled or the server was stopped; starts with the addresses it advertises.

        Raises:
            UserError: The address cannot be listened on.
        """
        self._recall()
        listen, advertise = self._settings.listen, self._settings.advertise
        if Role.COORDINATOR in self._record.roles:  # these settings are the coordinator's, in the home both share
            listen = ""
            advertise = ",".join(dict.fromkeys(parse_address(text)[0] for text in self._record.addresses))
        listeners = await _listeners(listen)
        bound = bound_addresses(listeners)

        def addresses() -> list[str]:
            return advertised(bound, advertise, towards=self._record.addresses)

        self.addresses = addresses()
        async with self._serving_client as client, trio.open_nursery() as background:
            relay = RelayListener(client, self._coordinator(), self.server.accept, mode=self._settings.relay)
            whereabouts = Whereabouts(addresses, relay)
            fellows = Fellows(client, self._coordinator())
            self._fetches.puller = MapPuller(client, fellows, self._store, timeout_s=FETCH_S, idle_s=IDLE_S)
            rate = RateLimit(self._settings.repair_rate, self._clock, burst_s=BURST_S)
            self._orders = OrderRunner(
                client, self._coordinator(), self._store, fellows=fellows, rate=rate, scrub=self.scrubber
            )
            self._farewell = Farewell(client, self._coordinator(), self._record.node)
            background.start_soon(self._orders.run)
            pulse = self._pulse(client, relay, whereabouts)
            housekeeping = Housekeeping(self._store, self._settings.trash_keep)
            share = partial(self._offers.answer, beat=pulse.hurry)
            socket = self._home.path / "run" / "peer.sock"
            background.start_soon(control.serve, socket, self._store, self._absence.state, share)
            background.start_soon(self._offers.run)
            background.start_soon(
                partial(self._absence.run, client, self._coordinator(), rate=rate, addresses=whereabouts.last)
            )
            background.start_soon(pulse.run)
            background.start_soon(relay.run)
            background.start_soon(self._forwarder.run)
            background.start_soon(self._renew, client)
            background.start_soon(housekeeping.tidy)
            background.start_soon(housekeeping.account)
            background.start_soon(worker.run, self.scrubber)
            told = metrics.figures(
                self._home,
                self.server,
                store=self._store,
                app=self._app,
                scrubber=self.scrubber,
                absence=self._absence,
            )
            self.metrics = await background.start(expose, self._settings.metrics_listen, told)
            try:
                async with trio.open_nursery() as serving:
                    await serving.start(self.server.serve, listeners)
                    task_status.started(self.addresses)
                await self.server.emptied()  # of those too that came through the relay
            finally:
                background.cancel_scope.cancel()

    async def away(self, for_s: float) -> None:
        """Say that this peer will be silent for so long; 0: it is back. Raises PoolError."""
        if self._farewell is not None:
            await self._farewell.away(for_s)

    async def leave(self) -> None:
        """Be drained; returns when this peer has left. See `Farewell.leave`."""
        if self._farewell is not None:
            await self._farewell.leave()

    def _free(self) -> int:
        """Bytes for more chunks. Blocking."""
        usage = self._store.usage()
        return min(usage.capacity, self._offer.bytes()) - usage.used - usage.trash

    def _offered(self) -> int:
        """For chunks and backups together."""
        return self._offer.bytes() + self._backups.bytes

    def _coordinator(self) -> Endpoint:
        return Endpoint(self._record.coordinator, Role.COORDINATOR, tuple(self._record.addresses))

    def _client(self) -> Client:
        return Client(
            self._client_context,
            self._record.pool,
            clock=self._clock,
            revocations=self._revocations,
            relay=self._coordinator(),
            connect=self._pace.connecting(connect_by_tcp),
        )

    def _pulse(self, client: Client, relay: RelayListener, whereabouts: Whereabouts) -> Pulse:
        async def hear(answer: HeartbeatAnswer) -> None:
            await self._hear(answer)
            whereabouts.settle()
            relay.tell(answer.is_dialable)

        return Pulse(
            client,
            self._coordinator(),
            store=self._store,
            root=self._root,
            addresses=whereabouts.now,
            offered=self._offer.bytes,
            scrub=self.scrubber.state,
            withdrawn=self._tokens.withdrawn,
            traffic=self._traffic,
            offers=self._offers.told,
            revocations=self._revocations,
            hear=hear,
            interval_s=self._settings.heartbeat,
            clock=self._clock,
        )

    def _recall(self) -> None:
        """Refuse whom this peer refused before it was started, and know whom it knew."""
        receipt_key = self._absence.recall()
        if receipt_key:
            self._signer.trust(receipt_key)
        try:
            known = self._revoked.load()
        except Corrupt as error:
            log.error("%s: chunks are served again when the coordinator has said who is revoked", error)
            self._app.is_open = False
            return
        self._revocations.update(known)
        # So that the coordinator tells its list in any case: after a restore from a backup its versions start lower.
        self._revocations.version = 0

    async def _hear(self, answer: HeartbeatAnswer) -> None:
        self._signer.trust(answer.receipt_key)
        self._tokens.trust(answer.token_key)
        self._tokens.withdraw(answer.withdrawn_seq, answer.withdrawn)
        self._absence.hear(answer)
        self._offer.granted = answer.capacity
        # Never above what the owner offers: what the trash may lose a day is a share of this.
        self._store.limit(min(answer.capacity, await trio.to_thread.run_sync(self._offer.bytes)))
        if answer.revocations is not None:
            if self._revocations.update(answer.revocations):
                self.server.drop_revoked()
            self._unsaved = self._revocations.listed()
        elif not self._app.is_open:
            self._unsaved = RevocationList(0, [], [])  # nobody is revoked: replace the damaged file
        self._app.is_open = True
        self._app.hear(answer.state)
        if self._farewell is not None:
            self._farewell.hear(answer.state)
        if answer.has_orders and self._orders is not None:
            self._orders.wake(map_version=answer.map_version)
        await self._remember()

    async def _remember(self) -> None:
        if self._unsaved is None:
            return
        try:
            await trio.to_thread.run_sync(self._revoked.save, self._unsaved)
            self._unsaved = None
        except (NoSpace, Unavailable) as error:  # the list in memory works; tried again with the next heartbeat
            log.warning("cannot keep the list of revocations: %s", error)

    async def _renew(self, client: Client) -> None:
        """Keep the certificate fresh, on both ends that show it."""
        contexts = (self._server_context, self._client_context)
        try:
            await keep_renewed(self._home, client, self._coordinator(), contexts=contexts, clock=self._clock)
        except PoolError as error:  # the files in the home; what is in memory works until it expires
            log.error("the certificate will not be renewed: %s", error)


def _credentials(home: NodeHome) -> Credentials:
    return Credentials(home.ca_path, home.certificate_path, home.key_path)


def chunk_root(home: NodeHome) -> Path:
    """Where a peer keeps its chunks."""
    return home.path / "chunks"


async def assemble(home: NodeHome, settings: Settings, clock: Clock | None = None) -> Peerd:
    """Read the home and scan the store.

    Raises:
        UserError: The home is no peer's.
        NoSpace, Unavailable: The disk does not let us.
        Invalid: The certificate files are damaged.
    """
    record = home.record()
    if Role.PEER not in record.roles:
        raise UserError(
            f"the node in {home.path} has not got the role peer; join again with an invite for it", exitcodes.DENIED
        )
    clock = clock or SystemClock()
    signer = Signer(record)
    store = await DirectoryStore.open(
        chunk_root(home),
        sign=signer.sign,
        capacity=settings.capacity if settings.capacity is not None else 1 << 62,
        reserve=settings.reserve,
        early_purge=settings.early_purge,
        clock=clock,
    )
    scrubber = await Scrubber.open(
        store, home.path / "scrub", period_s=settings.scrub_period, rate=settings.scrub_rate, clock=clock
    )
    return Peerd(home, settings, record, store, scrubber, signer, clock)


async def _listeners(listen: str) -> list[trio.SocketListener]:
    """Where told; otherwise on the usual port, or on any if another node of this machine has that."""
    if listen:
        return await open_listeners(listen)
    try:
        return await open_listeners(DEFAULT_LISTEN)
    except UserError:
        return await open_listeners(":0")
