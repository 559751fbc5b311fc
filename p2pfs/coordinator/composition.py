"""Wires the coordinator's services from what a restart finds: home, files and database.

The only place that knows all constructors. Called by `daemon`.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from p2pfs.coordinator.authority import Authority
from p2pfs.coordinator.backup.state import Backups
from p2pfs.coordinator.booked import Booked
from p2pfs.coordinator.bookings import Bookings
from p2pfs.coordinator.churn import Churn, Tally
from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.deletion import Deletion
from p2pfs.coordinator.dialability import Dialability, Probe
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.history import History, Observer
from p2pfs.coordinator.init import POOL_NAME
from p2pfs.coordinator.ledger import Ledger, Promise
from p2pfs.coordinator.liveness import Patience
from p2pfs.coordinator.membership import Membership, all_revoked
from p2pfs.coordinator.pulse import Pulse
from p2pfs.coordinator.receipts import ReceiptChecker
from p2pfs.coordinator.relay import Relay
from p2pfs.coordinator.reservations import Copies, Reservations
from p2pfs.coordinator.roll import RollOffice
from p2pfs.coordinator.roster import Roster
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.services import Services
from p2pfs.coordinator.sessions import GRACE, HELD, Sessions
from p2pfs.coordinator.sharing import Sharing
from p2pfs.coordinator.status import Status
from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.coordinator.traffic import Traffic
from p2pfs.coordinator.upkeep.audits import Audits
from p2pfs.coordinator.upkeep.care import Care
from p2pfs.coordinator.upkeep.deleted_volumes import DeletedVolumes
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.inventory import Inventory
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.leases import LeaseExpiry
from p2pfs.coordinator.upkeep.leaving import Leaving
from p2pfs.coordinator.upkeep.noticed import Noticed
from p2pfs.coordinator.upkeep.orders import OrderBook
from p2pfs.coordinator.upkeep.pool_clock import PoolClock
from p2pfs.coordinator.upkeep.purge import Purge
from p2pfs.coordinator.upkeep.quiet import Quiet
from p2pfs.coordinator.upkeep.scrubs import Scrubs
from p2pfs.coordinator.upkeep.trash import TrashPurge
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.coordinator.volumes import Volumes
from p2pfs.meta import bookings as booking_rows
from p2pfs.meta import jobs as job_rows
from p2pfs.meta import members, open_inodes, reservations, sessions, usefulness, void_copies
from p2pfs.meta import settings as rows
from p2pfs.meta.database import Database
from p2pfs.meta.events import Listeners
from p2pfs.meta.rounds import Rounds
from p2pfs.net.identity import Revocations
from p2pfs.placement.usefulness import Terms, Weights
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeRecord
from p2pfs.types import NodeId, PeerNumber, SessionId, VolumeId
from p2pfs.wire.chunks import Token
from p2pfs.wire.membership import PoolMap

STARTS: Final = "starts"
"""The setting that counts starts of this coordinator; it leads the version of the pool map."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the database knew when the coordinator started."""

    starts: int
    pool_name: str
    incarnation: int


async def compose(
    record: NodeRecord,
    settings: Settings,
    *,
    database: Database,
    authority: Authority,
    secrets: PoolSecrets,
    revocations: Revocations,
    clock: Clock,
    probe: Probe | None = None,
    rounds: Rounds | None = None,
) -> Services:
    """All services, knowing what an earlier run left. `revocations` is the server's and is filled here; without a
    `probe` every peer is taken for one that can be dialled, and without `rounds` history is kept in memory."""
    found = await _begin(database, settings, clock)
    copies = Copies(settings.replicas, settings.min_replicas)
    roster = Roster(
        record.pool,
        secrets.receipt_master,
        Patience(settings.heartbeat, settings.suspect, settings.down),
        started_s=clock.monotonic(),
        generation=found.starts,
    )
    roster.restore(database.read(members.nodes), database.read(members.peers))
    roster.revocations = database.read(all_revoked)
    revocations.update(roster.revocations)
    ledger = Ledger(first_seq=found.starts << 32)
    for kept in database.read(reservations.outstanding):
        ledger.restore(
            _promise(kept.session, kept.token),
            is_withdrawn=kept.is_withdrawn,
            is_acknowledged=kept.is_acknowledged,
            now_s=clock.time(),
        )
    for peer, size in database.read(reservations.unmeasured):
        ledger.unmeasured(peer, size)
    signer = TokenSigner(record.pool, secrets.token_seed)
    listeners = Listeners(clock.monotonic)
    delegations = Delegations(database=database, listeners=listeners, lasts_s=settings.delegation, clock=clock)
    dialability = Dialability(probe, clock)

    tally = database.read(lambda connection: rows.read(connection, rows.CHURN, Tally))
    churn = Churn(roster, tally or Tally(clock.time()), clock.monotonic())
    backups = Backups.load(database, clock, settings.backup_interval)

    flow = Flow(clock, settings.suspect)
    traffic = Traffic(roster, clock, database.read(usefulness.windows), database.read(usefulness.reports))
    noticed, pool_clock = Noticed(clock), PoolClock(database, roster, clock)
    weights = Weights(settings.weight_ds, settings.weight_us)
    judged = Usefulness(
        policy=settings.policy,
        terms=Terms(copies.replicas, copies.min_replicas, settings.fair_grant, weights),
        database=database,
        roster=roster,
        ledger=ledger,
        traffic=traffic,
        pool_clock=pool_clock,
        noticed=noticed,
        clock=clock,
    )
    booked = Booked(database.read(booking_rows.load), judged.share)

    def addresses() -> Sequence[str]:
        return record.addresses

    promised = Reservations(
        database=database,
        roster=roster,
        ledger=ledger,
        booked=booked,
        signer=signer,
        copies=copies,
        lifetime_s=settings.reservation_lifetime,
        early_purge=settings.early_purge,
        clock=clock,
        require=judged.require,
    )

    def pool_map(owner: str = "") -> PoolMap:
        return roster.pool_map(
            incarnation=found.incarnation,
            replicas=judged.copies(owner),
            min_replicas=copies.min_replicas,
            free=promised.free,
        )

    roll = RollOffice(
        signer,
        pool_map,
        elect_after_s=settings.elect_after,
        repair_delay_s=settings.repair_delay,
        is_fair=settings.policy == "fair",
        clock=clock,
    )
    receipts = ReceiptChecker(record.pool, roster.receipt_keys)
    jobs = Jobs(database, clock, database.read(job_rows.load))
    orders = OrderBook(roster, clock, first_number=found.starts << 40)
    deletions = Deletions(
        database=database,
        roster=roster,
        reservations=promised,
        waiting=database.read(void_copies.peers_pending),
        is_known=orders.is_known,
        noticed=noticed,
        clock=clock,
    )
    audits = Audits(database=database, roster=roster, noticed=noticed, interval_s=settings.audit_interval, clock=clock)
    leaving = Leaving(
        database=database,
        roster=roster,
        reservations=promised,
        deletions=deletions,
        jobs=jobs,
        gone=judged.gone,
        clock=clock,
    )
    care = Care(
        database=database,
        roster=roster,
        reservations=promised,
        receipts=receipts,
        deletions=deletions,
        audits=audits,
        jobs=jobs,
        noticed=noticed,
        surveyed=leaving.surveyed,
        usefulness=judged,
        repair_delay_s=settings.repair_delay,
        clock=clock,
    )
    inventory = Inventory(
        database=database,
        roster=roster,
        deletions=deletions,
        jobs=jobs,
        noticed=noticed,
        orphans_stay=lambda: bool(database.read(lambda connection: rows.number(connection, rows.ORPHANS_STAY))),
        interval_s=settings.inventory_interval,
        orphan_grace_s=settings.orphan_grace,
        clock=clock,
    )
    quiet = Quiet(roster, settings.quiet_load)
    purge = Purge(
        database=database,
        roster=roster,
        deletions=deletions,
        jobs=jobs,
        pool_clock=pool_clock,
        covered_s=backups.covered_s,
        grace_s=settings.purge_grace,
        latest_s=settings.purge_latest,
        quiet=quiet,
        clock=clock,
    )
    mounts = Sessions(
        database=database,
        roster=roster,
        reservations=promised,
        receipts=receipts,
        listeners=listeners,
        delegations=delegations,
        noticed=noticed,
        usefulness=judged,
        lifetime_s=settings.session_lifetime,
        clock=clock,
    )
    trash = TrashPurge(
        record.node,
        database=database,
        reservations=promised,
        deletions=deletions,
        pool_clock=pool_clock,
        quiet=quiet,
        reap=mounts.wake_reaper,
        pressure=settings.trash_pressure,
        latest_s=settings.purge_latest,
        clock=clock,
    )
    bookings = Bookings(
        database=database,
        roster=roster,
        reservations=promised,
        booked=booked,
        usefulness=judged,
        pool_clock=pool_clock,
        clock=clock,
    )
    scrubs = Scrubs(roster, jobs)
    for desk in (care, deletions, audits, inventory, scrubs):
        orders.add(desk)
    leases = LeaseExpiry(
        database=database,
        delegations=delegations,
        listeners=listeners,
        pool_clock=pool_clock,
        rules=mounts.rules,
        reap=mounts.wake_reaper,
        clock=clock,
    )
    volumes = Volumes(database=database, roster=roster, clock=clock)

    def sessions_alive() -> float:
        return clock.time() + settings.session_lifetime * (GRACE - _MISSED)

    deletion = Deletion(
        database=database,
        roster=roster,
        volumes=volumes,
        over=mounts.over,
        alive_s=sessions_alive,
        kept_s=settings.volume_trash,
        clock=clock,
    )
    deleted = DeletedVolumes(database=database, pool_clock=pool_clock, reap=mounts.wake_reaper, clock=clock)
    status = Status(
        record.node,
        found.pool_name,
        database=database,
        roster=roster,
        reservations=promised,
        copies=copies,
        bookings=bookings,
        jobs=jobs,
        inventory=inventory,
        pool_clock=pool_clock,
        addresses=addresses,
        clock=clock,
        backups=backups,
        is_pressed=lambda: trash.is_pressed,
        churn=churn,
        flow=flow,
        judged=judged,
        sessions_alive=sessions_alive,
    )
    observer = Observer(
        status.overall,
        clock,
        queues={"queue.copies": lambda: care.waiting, "queue.deletions": deletions.waiting.total},
        totals={
            "traffic.in": lambda: flow.received,
            "traffic.out": lambda: flow.sent,
            "copies": lambda: care.copied,
            "batches": lambda: mounts.batches,
        },
    )
    return Services(
        roster=roster,
        membership=Membership(
            record.pool,
            record.node,
            database=database,
            roster=roster,
            session_over=mounts.over,
            authority=authority,
            revocations=revocations,
            addresses=addresses,
            certificate_lifetime_s=settings.certificate_lifetime,
            clock=clock,
        ),
        pulse=Pulse(
            database=database,
            roster=roster,
            reservations=promised,
            signer=signer,
            orders=orders,
            noticed=noticed,
            scrubs=scrubs,
            dialability=dialability,
            churn=churn,
            traffic=traffic,
            flow=flow,
            roll=roll,
            clock=clock,
        ),
        dialability=dialability,
        relay=Relay(roster),
        volumes=volumes,
        deletion=deletion,
        sharing=Sharing(record.pool, database=database, roster=roster, over=mounts.over, clock=clock),
        sessions=mounts,
        delegations=delegations,
        reservations=promised,
        bookings=bookings,
        status=status,
        pool_map=pool_map,
        roll=roll,
        backups=backups,
        orders=orders,
        leaving=leaving,
        jobs=jobs,
        pool_clock=pool_clock,
        usefulness=judged,
        history=History(rounds or Rounds(), observer, clock, is_settled=lambda: roster.is_settled(clock.monotonic())),
        flow=flow,
        copied=lambda: care.copied,
        workers=(care, leaving, audits, bookings, leases, trash, deleted, purge, jobs, judged),
    )


_MISSED: Final = 3
"""Lifetimes without a renewal after which a session no longer counts as a mount, though it is kept."""


async def _begin(database: Database, settings: Settings, clock: Clock) -> Found:
    """Note the start. Sessions live on as if the coordinator had never been away."""
    now_s = clock.time()

    def begin(connection: sqlite3.Connection) -> Found:
        rows.write(connection, rows.REPLICAS, value=settings.replicas)
        sessions.extend_sessions(connection, until_s=now_s + settings.session_lifetime * GRACE)
        open_inodes.extend(connection, until_s=now_s + settings.session_lifetime * HELD)
        return Found(
            rows.raise_by_one(connection, STARTS),
            rows.read(connection, POOL_NAME, str) or "",
            rows.incarnation(connection),
        )

    return await database.write(begin)


def _promise(session: str, token: Token) -> Promise:
    return Promise(
        token.id,
        SessionId(session),
        NodeId(token.sender),
        VolumeId(token.volume),
        PeerNumber(token.peer),
        token.room_bytes,
        token.expires_s,
    )
