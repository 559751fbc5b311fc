"""The coordinator as a process: home → database → services → server, until SIGTERM.

One nursery owns the server and the background workers. Called by `p2pfs coordinator start` (`run`) and by tests
(`open_coordinator`).
"""

import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec
import trio

from p2pfs.coordinator import metrics
from p2pfs.coordinator.backup.chain import Sealing
from p2pfs.coordinator.backup.peers import BackupPeers
from p2pfs.coordinator.backup.recovery import signing_key
from p2pfs.coordinator.backup.worker import Backup
from p2pfs.coordinator.composition import compose
from p2pfs.coordinator.dashboard import service as dashboards
from p2pfs.coordinator.dialability import prober
from p2pfs.coordinator.files import DEFAULT_PORT, CoordinatorFiles
from p2pfs.coordinator.handlers import Handlers
from p2pfs.coordinator.history import open_rounds
from p2pfs.coordinator.membership import Membership
from p2pfs.coordinator.own_certificate import OwnCertificate
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.services import Services
from p2pfs.coordinator.sessions import MAX_SESSIONS, Expiry, Reaper
from p2pfs.meta.database import Database, ThreadedDatabase, open_database
from p2pfs.net import lan
from p2pfs.net.addresses import bound_addresses, close_listeners, open_listeners, parse_address
from p2pfs.net.advertising import advertised
from p2pfs.net.client import Client, Endpoint
from p2pfs.net.exposition import expose
from p2pfs.net.forwarding import Accepting
from p2pfs.net.identity import Credentials, Revocations, client_context, server_context
from p2pfs.net.server import Limits, Server
from p2pfs.runtime import process, worker
from p2pfs.runtime.clocks import Clock, SystemClock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.daemons import run_daemon
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.runtime.inspection import inspectable
from p2pfs.runtime.memory import thrifty
from p2pfs.runtime.notify import notify
from p2pfs.runtime.parts import PartFiles
from p2pfs.runtime.watchdog import watched
from p2pfs.runtime.worker import Worker
from p2pfs.types import Role
from p2pfs.wire.routes import COORDINATOR_ROUTES

LAST_RESORT_S: Final = 15.0
"""How long after the graceful stop's own deadline the process is ended by force."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A coordinator at work. `record.addresses` is what others dial."""

    record: NodeRecord
    services: Services
    server: Server
    database: Database
    metrics: Sequence[str] = ()
    """Where Prometheus may ask."""
    dashboard: dashboards.Dashboard | None = None


def run(home: NodeHome, settings: Settings) -> int:
    """Be the coordinator of this home until SIGTERM or SIGINT; the exit status.

    Raises:
        UserError: It cannot start, or can no longer work.
    """
    process.collect_rarely()
    with home.lock("coordinator"):
        return run_daemon(partial(_run, home, settings))


async def _run(home: NodeHome, settings: Settings) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with inspectable(), watched(), thrifty(), open_coordinator(home, settings) as running:
            notify("READY=1")
            _log.info("the coordinator of pool %s is at %s", running.record.pool, ", ".join(running.record.addresses))
            received = await anext(signals)
            _log.info("stopping: %s", signal.Signals(received).name)
            notify("STOPPING=1")
            last_resort = process.end_within(settings.stop_timeout + LAST_RESORT_S)
    last_resort.cancel()


@contextlib.asynccontextmanager
async def open_coordinator(home: NodeHome, settings: Settings, *, clock: Clock | None = None) -> AsyncIterator[Running]:
    """Serve while the block runs, then stop gracefully within `settings.stop_timeout`.

    Raises:
        UserError: The home has no coordinator, its files are damaged, or the addresses are taken.
        PoolError: The database cannot be used.
    """
    clock, files = clock or SystemClock(), CoordinatorFiles(home)
    authority, secrets = files.load(home.record().pool)
    async with (
        open_database(files.database) as database,
        _listening(settings) as listeners,
        open_rounds(files.history) as rounds,
    ):
        record, revocations = _tell_home(home, bound_addresses(listeners), settings.advertise), Revocations()
        credentials = Credentials(home.ca_path, home.certificate_path, home.key_path)
        dialling = client_context(credentials)
        services = await compose(
            record,
            settings,
            database=database,
            authority=authority,
            secrets=secrets,
            revocations=revocations,
            clock=clock,
            probe=prober(dialling, record.pool, clock),
            rounds=rounds,
        )
        certificate = OwnCertificate(home, services.membership, renew_after_s=settings.renew_after, clock=clock)
        certificate.contexts.append(dialling)
        await certificate.look()
        serving = server_context(credentials, client_certificate="optional")
        certificate.contexts.append(serving)
        dashboard = dashboards.made(home, settings, services, revocations=revocations, clock=clock)
        accepting = Accepting(record.node, lambda stream: server.accept(stream))
        server = Server(
            COORDINATOR_ROUTES,
            Handlers(services, accepting, dashboard.link if dashboard else None).table(),
            context=serving,
            pool=record.pool,
            limits=Limits(waiting_per_node=MAX_SESSIONS),
            revocations=revocations,
            clock=clock,
            authorise=services.authorise,
        )
        workers: list[Worker] = [
            services.pulse,
            services.dialability,
            Reaper(services.sessions),
            Expiry(services.sessions, services.reservations),
            certificate,
            services.history,
            *services.workers,
        ]
        own = Endpoint(record.node, Role.COORDINATOR, tuple(record.addresses))
        client = Client(dialling, record.pool, clock=clock, revocations=revocations, relay=own)
        backup = backup_worker(home, settings, database, services, client=client, secrets=secrets, clock=clock)
        if backup is not None:
            workers.append(backup)
        async with client, trio.open_nursery() as nursery:
            reports = [worker.Report(one.name) for one in workers]
            for one, report in zip(workers, reports, strict=True):
                nursery.start_soon(worker.run, one, report)
            nursery.start_soon(_drop_revoked, services.membership, server)
            if settings.announce:
                nursery.start_soon(lan.announce, record.pool, bound_addresses(listeners))
            await nursery.start(server.serve, listeners)
            told = metrics.figures(home, services, server, database, reports)
            exposed = await nursery.start(expose, settings.metrics_listen, told)
            if dashboard is not None:
                nursery.start_soon(_drop_revoked, services.membership, dashboard.server)
                await nursery.start(dashboard.serve)
            yield Running(record, services, server, database, exposed, dashboard)
            services.sessions.stop()
            services.relay.stop()
            if dashboard is not None:
                await dashboard.stop(settings.stop_timeout)
            await server.stop(settings.stop_timeout)
            nursery.cancel_scope.cancel()


def backup_worker(
    home: NodeHome,
    settings: Settings,
    database: ThreadedDatabase,
    services: Services,
    *,
    client: Client,
    secrets: PoolSecrets,
    clock: Clock,
) -> Backup | None:
    """The worker that backs up; None where nobody could read what it made."""
    files, record = CoordinatorFiles(home), home.record()
    recovery = files.load_recovery()
    services.backups.has_kit = recovery is not None
    if recovery is None:
        return None
    unsent = PartFiles(files.unsent, is_durable=False)
    unsent.clear()  # whatever is there, nothing leads on from it
    backups = services.backups
    return Backup(
        home,
        settings,
        Sealing(record.pool, recovery.key, signing_key(secrets)),
        database=database,
        backups=backups,
        peers=BackupPeers(
            record.node, client=client, roster=services.roster, backups=backups, files=unsent, clock=clock
        ),
        files=unsent,
        clock=clock,
    )


@contextlib.asynccontextmanager
async def _listening(settings: Settings) -> AsyncIterator[list[trio.SocketListener]]:
    """Where told; otherwise on every address, on the port that others are told to dial: that of `advertise`. Where it
    listened last does not count, so that `--set listen` holds for one run."""
    usual = [f":{DEFAULT_PORT}"]
    port = parse_address(advertised(usual, settings.advertise)[0])[1] if settings.advertise else DEFAULT_PORT
    listeners = await open_listeners(settings.listen or f":{port}")
    try:
        yield listeners
    finally:
        close_listeners(listeners)


def _tell_home(home: NodeHome, bound: Sequence[str], advertise: str) -> NodeRecord:
    """The commands of this machine find the coordinator where it really is, even on a port taken by chance."""
    record, dialled = home.record(), advertised(bound, advertise)
    if record.addresses != dialled:
        _log.info("was told to be at %s until now, is at %s", ", ".join(record.addresses), ", ".join(dialled))
        record = msgspec.structs.replace(record, addresses=dialled)
        home.save(record)
    return record


async def _drop_revoked(membership: Membership, server: Server) -> None:
    """Close live connections of whoever is revoked, at once."""
    while True:
        await membership.revoked.wait()
        server.drop_revoked()
