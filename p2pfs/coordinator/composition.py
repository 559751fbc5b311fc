"""Wires the coordinator's services from what a restart finds: home, files and database.

In the order of what stands on what: `foundation`, then who may write how much, the sessions of mounts, what looks after
the pool (`upkeep.composition`), and what tells people of it. Called by `daemon`.
"""

from dataclasses import dataclass

from p2pfs.coordinator import foundation as foundations
from p2pfs.coordinator.authority import Authority
from p2pfs.coordinator.backup.state import Backups
from p2pfs.coordinator.booked import Booked
from p2pfs.coordinator.bookings import Bookings
from p2pfs.coordinator.churn import Churn, Tally
from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.deletion import Deletion
from p2pfs.coordinator.dialability import Dialability, Probe
from p2pfs.coordinator.flow import Flow
from p2pfs.coordinator.foundation import Foundation
from p2pfs.coordinator.history import History, Observer
from p2pfs.coordinator.membership import Membership
from p2pfs.coordinator.pulse import Pulse
from p2pfs.coordinator.questions import Questions
from p2pfs.coordinator.receipts import ReceiptChecker
from p2pfs.coordinator.relay import Relay
from p2pfs.coordinator.reservations import Copies, Reservations
from p2pfs.coordinator.roll import RollOffice
from p2pfs.coordinator.secrets import PoolSecrets
from p2pfs.coordinator.services import Services
from p2pfs.coordinator.sessions import Sessions
from p2pfs.coordinator.sharing import Sharing
from p2pfs.coordinator.status import Status
from p2pfs.coordinator.tokens import TokenSigner
from p2pfs.coordinator.traffic import Traffic
from p2pfs.coordinator.upkeep.composition import Upkeep, compose_upkeep
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.coordinator.volumes import Volumes
from p2pfs.meta import bookings as booking_rows
from p2pfs.meta import settings as rows
from p2pfs.meta import usefulness as usefulness_rows
from p2pfs.meta.database import Database
from p2pfs.meta.events import Listeners
from p2pfs.meta.rounds import Rounds
from p2pfs.net.identity import Revocations
from p2pfs.placement.usefulness import Terms, Weights
from p2pfs.runtime.clocks import Clock
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeRecord
from p2pfs.wire.membership import PoolMap


async def compose(
    record: NodeRecord,
    settings: Settings,
    *,
    database: Database,
    authority: Authority,
    secrets: PoolSecrets,
    revocations: Revocations,
    clock: Clock,
    rounds: Rounds,
    probe: Probe | None = None,
) -> Services:
    """All services, knowing what an earlier run left. `revocations` is the server's and is filled here; in `rounds`,
    which the caller closes, history is kept; without a `probe` every peer is taken for one that can be dialled."""
    foundation = await foundations.lay(record, settings, database=database, secrets=secrets, clock=clock)
    roster = foundation.roster
    revocations.update(roster.revocations)
    signer = TokenSigner(record.pool, secrets.token_seed)
    receipts = ReceiptChecker(record.pool, roster.receipt_keys)
    tally = database.read(lambda connection: rows.read(connection, rows.CHURN, Tally))
    churn = Churn(roster, tally or Tally(clock.time()), clock.monotonic())
    flow = Flow(clock, settings.suspect)
    backups = Backups.load(database, clock, settings.backup_interval)
    dialability = Dialability(probe, clock)

    room = _room(foundation, signer)
    usefulness, reservations = room.usefulness, room.reservations

    def pool_map(owner: str = "") -> PoolMap:
        return roster.pool_map(
            incarnation=foundation.found.incarnation,
            replicas=usefulness.copies(owner),
            min_replicas=room.copies.min_replicas,
            free=reservations.free,
        )

    listeners = Listeners(clock.monotonic)
    delegations = Delegations(database=database, listeners=listeners, lasts_s=settings.delegation, clock=clock)
    sessions = Sessions(
        database=database,
        roster=roster,
        reservations=reservations,
        receipts=receipts,
        listeners=listeners,
        delegations=delegations,
        noticed=foundation.noticed,
        usefulness=usefulness,
        lifetime_s=settings.session_lifetime,
        clock=clock,
    )
    upkeep = compose_upkeep(
        foundation,
        reservations=reservations,
        receipts=receipts,
        usefulness=usefulness,
        listeners=listeners,
        delegations=delegations,
        sessions=sessions,
        covered_s=backups.covered_s,
    )
    volumes = Volumes(database=database, roster=roster, clock=clock)
    roll = RollOffice(
        signer,
        pool_map,
        elect_after_s=settings.elect_after,
        repair_delay_s=settings.repair_delay,
        is_fair=settings.policy == "fair",
        clock=clock,
    )
    status = Status(
        record.node,
        foundation.found.pool_name,
        database=database,
        roster=roster,
        reservations=reservations,
        copies=room.copies,
        bookings=room.bookings,
        jobs=upkeep.jobs,
        inventory=upkeep.inventory,
        pool_clock=foundation.pool_clock,
        addresses=lambda: record.addresses,
        clock=clock,
        backups=backups,
        is_pressed=lambda: upkeep.trash.is_pressed,
        churn=churn,
        flow=flow,
        judged=usefulness,
        sessions_alive=sessions.alive_s,
    )
    return Services(
        roster=roster,
        membership=Membership(
            record.pool,
            record.node,
            database=database,
            roster=roster,
            session_over=sessions.over,
            authority=authority,
            revocations=revocations,
            addresses=lambda: record.addresses,
            certificate_lifetime_s=settings.certificate_lifetime,
            clock=clock,
        ),
        pulse=Pulse(
            database=database,
            roster=roster,
            reservations=reservations,
            signer=signer,
            orders=upkeep.orders,
            noticed=foundation.noticed,
            scrubs=upkeep.scrubs,
            dialability=dialability,
            churn=churn,
            traffic=usefulness.traffic,
            flow=flow,
            roll=roll,
            clock=clock,
        ),
        dialability=dialability,
        relay=Relay(roster),
        volumes=volumes,
        deletion=Deletion(
            database=database,
            roster=roster,
            volumes=volumes,
            over=sessions.over,
            alive_s=sessions.alive_s,
            kept_s=settings.volume_trash,
            clock=clock,
        ),
        sharing=Sharing(record.pool, database=database, roster=roster, over=sessions.over, clock=clock),
        sessions=sessions,
        questions=Questions(database, reservations, usefulness),
        delegations=delegations,
        reservations=reservations,
        bookings=room.bookings,
        status=status,
        pool_map=pool_map,
        roll=roll,
        backups=backups,
        orders=upkeep.orders,
        leaving=upkeep.leaving,
        jobs=upkeep.jobs,
        pool_clock=foundation.pool_clock,
        usefulness=usefulness,
        history=_history(foundation, rounds, status=status, upkeep=upkeep, flow=flow, sessions=sessions),
        flow=flow,
        copied=lambda: upkeep.care.copied,
        workers=(
            upkeep.care,
            upkeep.leaving,
            upkeep.audits,
            room.bookings,
            upkeep.leases,
            upkeep.trash,
            upkeep.deleted,
            upkeep.purge,
            upkeep.jobs,
            usefulness,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """Who may write how much, and where."""

    copies: Copies
    usefulness: Usefulness
    reservations: Reservations
    bookings: Bookings


def _room(foundation: Foundation, signer: TokenSigner) -> _Room:
    settings, database, clock = foundation.settings, foundation.database, foundation.clock
    roster, pool_clock = foundation.roster, foundation.pool_clock
    copies = Copies(settings.replicas, settings.min_replicas)
    ledger = foundation.ledger()
    usefulness = Usefulness(
        policy=settings.policy,
        terms=Terms(
            copies.replicas,
            copies.min_replicas,
            settings.fair_grant,
            Weights(settings.weight_ds, settings.weight_us),
        ),
        database=database,
        roster=roster,
        ledger=ledger,
        traffic=Traffic(roster, clock, database.read(usefulness_rows.windows), database.read(usefulness_rows.reports)),
        pool_clock=pool_clock,
        noticed=foundation.noticed,
        clock=clock,
    )
    booked = Booked(database.read(booking_rows.load), usefulness.share)
    reservations = Reservations(
        database=database,
        roster=roster,
        ledger=ledger,
        booked=booked,
        signer=signer,
        copies=copies,
        lifetime_s=settings.reservation_lifetime,
        early_purge=settings.early_purge,
        clock=clock,
        require=usefulness.require,
    )
    bookings = Bookings(
        database=database,
        roster=roster,
        reservations=reservations,
        booked=booked,
        usefulness=usefulness,
        pool_clock=pool_clock,
        clock=clock,
    )
    return _Room(copies, usefulness, reservations, bookings)


def _history(
    foundation: Foundation, rounds: Rounds, *, status: Status, upkeep: Upkeep, flow: Flow, sessions: Sessions
) -> History:
    observer = Observer(
        status.overall,
        foundation.clock,
        queues={"queue.copies": lambda: upkeep.care.waiting, "queue.deletions": upkeep.deletions.waiting.total},
        totals={
            "traffic.in": lambda: flow.received,
            "traffic.out": lambda: flow.sent,
            "copies": lambda: upkeep.care.copied,
            "batches": lambda: sessions.batches,
        },
    )
    roster, clock = foundation.roster, foundation.clock
    return History(rounds, observer, clock, is_settled=lambda: roster.is_settled(clock.monotonic()))
