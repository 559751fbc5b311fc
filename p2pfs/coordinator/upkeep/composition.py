"""Wires what looks after the pool: the desks that have orders for peers, and the workers behind them.

Called by the coordinator's `composition`, once reservations and sessions are there.
"""

from collections.abc import Callable
from dataclasses import dataclass

from p2pfs.coordinator.delegations import Delegations
from p2pfs.coordinator.foundation import Foundation
from p2pfs.coordinator.receipts import ReceiptChecker
from p2pfs.coordinator.reservations import Reservations
from p2pfs.coordinator.sessions import Sessions
from p2pfs.coordinator.upkeep.audits import Audits
from p2pfs.coordinator.upkeep.care import Care
from p2pfs.coordinator.upkeep.deleted_volumes import DeletedVolumes
from p2pfs.coordinator.upkeep.deletions import Deletions
from p2pfs.coordinator.upkeep.inventory import Inventory
from p2pfs.coordinator.upkeep.jobs import Jobs
from p2pfs.coordinator.upkeep.leases import LeaseExpiry
from p2pfs.coordinator.upkeep.leaving import Leaving
from p2pfs.coordinator.upkeep.orders import OrderBook
from p2pfs.coordinator.upkeep.purge import Purge
from p2pfs.coordinator.upkeep.quiet import Quiet
from p2pfs.coordinator.upkeep.scrubs import Scrubs
from p2pfs.coordinator.upkeep.trash import TrashPurge
from p2pfs.coordinator.usefulness import Usefulness
from p2pfs.meta import jobs as job_rows
from p2pfs.meta import settings as rows
from p2pfs.meta import void_copies
from p2pfs.meta.events import Listeners


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """What looks after one pool, `jobs` and the order book among it."""

    jobs: Jobs
    orders: OrderBook
    deletions: Deletions
    audits: Audits
    leaving: Leaving
    care: Care
    inventory: Inventory
    scrubs: Scrubs
    purge: Purge
    trash: TrashPurge
    leases: LeaseExpiry
    deleted: DeletedVolumes


def compose_upkeep(
    foundation: Foundation,
    *,
    reservations: Reservations,
    receipts: ReceiptChecker,
    usefulness: Usefulness,
    listeners: Listeners,
    delegations: Delegations,
    sessions: Sessions,
    covered_s: Callable[[], float],
) -> Upkeep:
    """All of it, knowing what an earlier run left. `covered_s`: what was so (UTC) is in a backup."""
    database, roster, settings = foundation.database, foundation.roster, foundation.settings
    noticed, pool_clock, clock = foundation.noticed, foundation.pool_clock, foundation.clock
    jobs = Jobs(database, clock, database.read(job_rows.load))
    orders = OrderBook(roster, clock, first_number=foundation.found.starts << 40)
    deletions = Deletions(
        database=database,
        roster=roster,
        reservations=reservations,
        waiting=database.read(void_copies.peers_pending),
        is_known=orders.is_known,
        noticed=noticed,
        clock=clock,
    )
    audits = Audits(database=database, roster=roster, noticed=noticed, interval_s=settings.audit_interval, clock=clock)
    leaving = Leaving(
        database=database,
        roster=roster,
        reservations=reservations,
        deletions=deletions,
        jobs=jobs,
        gone=usefulness.gone,
        clock=clock,
    )
    care = Care(
        database=database,
        roster=roster,
        reservations=reservations,
        receipts=receipts,
        deletions=deletions,
        audits=audits,
        jobs=jobs,
        noticed=noticed,
        surveyed=leaving.surveyed,
        usefulness=usefulness,
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
    scrubs = Scrubs(roster, jobs)
    for desk in (care, deletions, audits, inventory, scrubs):
        orders.add(desk)
    quiet = Quiet(roster, settings.quiet_load)
    return Upkeep(
        jobs=jobs,
        orders=orders,
        deletions=deletions,
        audits=audits,
        leaving=leaving,
        care=care,
        inventory=inventory,
        scrubs=scrubs,
        purge=Purge(
            database=database,
            roster=roster,
            deletions=deletions,
            jobs=jobs,
            pool_clock=pool_clock,
            covered_s=covered_s,
            grace_s=settings.purge_grace,
            latest_s=settings.purge_latest,
            quiet=quiet,
            clock=clock,
        ),
        trash=TrashPurge(
            foundation.record.node,
            database=database,
            reservations=reservations,
            deletions=deletions,
            pool_clock=pool_clock,
            quiet=quiet,
            reap=sessions.wake_reaper,
            pressure=settings.trash_pressure,
            latest_s=settings.purge_latest,
            clock=clock,
        ),
        leases=LeaseExpiry(
            database=database,
            delegations=delegations,
            listeners=listeners,
            pool_clock=pool_clock,
            rules=sessions.rules,
            reap=sessions.wake_reaper,
            clock=clock,
        ),
        deleted=DeletedVolumes(database=database, pool_clock=pool_clock, reap=sessions.wake_reaper, clock=clock),
    )
