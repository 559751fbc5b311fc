"""What befalls a pool: machines crash, hang and lose power, links are cut, slow and lossy, disks fill up, hang, die and
change bits, peers lie, clocks jump. Drawn by the seed; nothing that destroys copies leaves a chunk without one.
"""

import contextlib
from collections.abc import Callable

import trio

from p2pfs.coordinator.delegations import MARGIN_S
from p2pfs.errors import PoolError

from .disk import Copy
from .liar import Liar
from .network import Host
from .pool import SimMount, SimPeer
from .world import World


class Faults:
    """Begins and ends faults. Machines that died are started again by `World`'s nursery."""

    def __init__(self, world: World, nursery: trio.Nursery) -> None:
        self.world, self.nursery = world, nursery
        self.chance = world.chance
        self._power_lost: set[Host] = set()
        self.drained: set[SimPeer] = set()
        self.dead: SimPeer | None = None
        self.liar: SimPeer | None = None
        self.revoked: SimPeer | None = None

    # ---- life of machines -------------------------------------------------------------------------------------------

    async def start_all(self) -> None:
        """Everything runs that can."""
        pool = self.world.pool
        if not pool.coordinator.host.is_up:
            await self._start(pool.coordinator.host, pool.coordinator.run)
        for peer in pool.peers:
            await self.start_peer(peer)
        await trio.sleep(1.0)  # for heartbeats: a mount that sees a pool of one peer writes one copy
        for mount in pool.mounts:
            await self.start_mount(mount)

    async def start_peer(self, peer: SimPeer) -> None:
        if not peer.host.is_up and peer is not self.dead:
            await peer.host.ended.wait() if peer.host.nursery is not None else None
            peer.disk.start(lost_power=peer.host in self._power_lost)
            self._power_lost.discard(peer.host)
            await self._start(peer.host, peer.run)

    async def start_mount(self, mount: SimMount) -> None:
        if not mount.host.is_up:
            await self._start(mount.host, mount.run)

    async def _start(self, host: Host, body: Callable[[], object]) -> None:
        if host.nursery is not None:
            await host.ended.wait()
        self.world.note(f"{host.name} starts")
        await self.nursery.start(host.live, body)

    # ---- faults -----------------------------------------------------------------------------------------------------

    async def strike(self) -> None:
        """One random event, for better or worse."""
        kinds: list[tuple[int, Callable[[], object]]] = [
            (4, self._kill_peer), (3, self._cut_power), (3, self._mine_disk), (8, self._start_some),
            (3, self._hang), (4, self._resume), (4, self._partition), (5, self._heal), (3, self._slow),
            (3, self._lossy),
            (3, self._calm), (2, self._fill), (3, self._empty), (2, self._stick), (3, self._unstick), (3, self._flip),
            (3, self._kill_coordinator), (3, self._drain), (1, self._undrain), (1, self._away), (1, self._turn_clock),
            (1, self._disk_dies), (2, self._forget), (2, self._kill_mount), (2, self._unmount), (1, self._lie),
            (1, self._revoke), (1, self._turn_coordinators_clock), (1, self._confirm_clock),
        ]  # fmt: skip
        weights = [weight for weight, _ in kinds]
        result = self.chance.choices([fault for _, fault in kinds], weights)[0]()
        if result is not None:
            await result  # type: ignore[misc]

    def _peer(self) -> SimPeer:
        return self.chance.choice(self.world.pool.peers)

    def _kill_peer(self) -> None:
        peer = self._peer()
        if peer.host.is_up:
            self.world.note(f"{peer.host.name} is killed")
            peer.host.stop()

    def _cut_power(self) -> None:
        peer = self._peer()
        if peer.host.is_up:
            self.world.note(f"{peer.host.name} loses power")
            self._power_lost.add(peer.host)
            peer.host.stop()

    def _mine_disk(self) -> None:
        peer = self._peer()
        if peer.host.is_up:
            peer.disk.dies_in = self.chance.randrange(60)
            self._power_lost.add(peer.host)
            self.world.note(f"{peer.host.name} will lose power after {peer.disk.dies_in} system calls of its disk")

    async def _start_some(self) -> None:
        pool = self.world.pool
        if not pool.coordinator.host.is_up:
            await self._start(pool.coordinator.host, pool.coordinator.run)
        for peer in pool.peers:
            if self.chance.random() < 0.7:
                await self.start_peer(peer)
        for mount in pool.mounts:
            if self.chance.random() < 0.7:
                await self.start_mount(mount)

    def _any_host(self) -> Host:
        return self.chance.choice(self.world.pool.hosts())

    def _hang(self) -> None:
        host = self._any_host()
        self.world.note(f"{host.name} hangs")
        host.hang()

    def _resume(self) -> None:
        for host in self.world.pool.hosts():
            if host.is_hung:
                self.world.note(f"{host.name} goes on")
                host.resume()

    def _partition(self) -> None:
        hosts = self.world.pool.hosts()
        cut = self.world.pool.network.cut
        if self.chance.random() < 0.5:
            one, other = self.chance.sample(hosts, 2)
            cut.add(frozenset((one.name, other.name)))
            self.world.note(f"{one.name} and {other.name} are parted")
            return
        lonely = self.chance.choice(hosts)
        for host in hosts:
            if host is not lonely:
                cut.add(frozenset((host.name, lonely.name)))
        self.world.note(f"{lonely.name} is cut off")

    def _heal(self) -> None:
        if self.world.pool.network.cut:
            self.world.note("no link is cut any more")
        self.world.pool.network.cut.clear()

    def _slow(self) -> None:
        host = self._any_host()
        factor = self.chance.choice((20, 200, 1500))
        self.world.pool.network.weather.slow[host.name] = factor
        self.world.note(f"{host.name} is {factor} times slower to reach")

    def _lossy(self) -> None:
        weather = self.world.pool.network.weather
        weather.lost, weather.unanswered = self.chance.random() * 0.3, self.chance.random() * 0.3
        self.world.note(f"{weather.lost:.0%} of requests and {weather.unanswered:.0%} of answers are lost")

    def _calm(self) -> None:
        weather = self.world.pool.network.weather
        weather.lost = weather.unanswered = 0.0
        weather.slow.clear()
        self.world.note("links are well again")

    def _fill(self) -> None:
        peer = self._peer()
        peer.disk.is_full = True
        self.world.note(f"the disk of {peer.host.name} is full")

    def _empty(self) -> None:
        for peer in self.world.pool.peers:
            if peer.disk.is_full:
                peer.disk.is_full = False
                self.world.note(f"the disk of {peer.host.name} has room again")

    def _stick(self) -> None:
        peer = self._peer()
        peer.disk.hang()
        self.world.note(f"the disk of {peer.host.name} does not answer")

    def _unstick(self) -> None:
        for peer in self.world.pool.peers:
            peer.disk.unstick()

    def _flip(self) -> None:
        """A bit changes in a copy that is not the only valid one."""
        peer = self._peer()
        copies = [copy for copy in peer.disk.copies() if self._is_spare(peer, copy)]
        if copies:
            copy = self.chance.choice(copies)
            peer.disk.flip(copy)
            self.world.destroyed.add((peer.number, copy[1]))
            self.world.note(f"a bit of chunk {copy[1].hex()[:8]} on {peer.host.name} flips")

    def _is_spare(self, peer: SimPeer, copy: Copy) -> bool:
        return any(other is not peer for other in self.world.valid(copy[1], copy[0]))

    def _kill_coordinator(self) -> None:
        host = self.world.pool.coordinator.host
        if host.is_up:
            self.world.note("the coordinator is killed")
            host.stop()

    def _kill_mount(self) -> None:
        mount = self.chance.choice(self.world.pool.mounts)
        if mount.host.is_up:
            self.world.note(f"{mount.host.name} is killed")
            mount.host.stop()

    def _unmount(self) -> None:
        mount = self.chance.choice(self.world.pool.mounts)
        if mount.mounted is not None:
            self.world.note(f"{mount.host.name} unmounts")
            mount.leave()

    # ---- what admins and owners do ----------------------------------------------------------------------------------

    async def _asks(self, name: str, peer: SimPeer, **more: object) -> None:
        """Call the coordinator's service as the handler of an admin's request does."""
        coordinator = self.world.pool.coordinator
        services = coordinator.services
        if not coordinator.host.is_up or services is None:
            return
        with trio.move_on_after(30):
            try:
                await getattr(services.leaving, name)(coordinator.host.identity, peer.host.identity.node, **more)
                self.world.note(f"{name} {peer.host.name}")
            except PoolError as error:
                self.world.note(f"{name} {peer.host.name}: {error}")

    async def _drain(self) -> None:
        if len(self.world.pool.peers) - len(self.drained) > self.world.pool.settings.replicas:
            peer = self._peer()
            self.drained.add(peer)
            await self._asks("drain", peer)

    async def _undrain(self) -> None:
        for peer in sorted(self.drained, key=lambda peer: peer.number):
            self.drained.discard(peer)
            await self._asks("undrain", peer)

    async def _away(self) -> None:
        await self._asks("away", self._peer(), for_s=float(self.chance.choice((0, 600, 7200))))

    def _turn_clock(self) -> None:
        peer = self._peer()
        peer.host.clock.ahead_s += self.chance.choice((-86400.0, -600.0, 1200.0, 3600.0, 10 * 86400.0))
        self.world.note(f"the clock of {peer.host.name} is {peer.host.clock.ahead_s:g} s ahead")

    def _disk_dies(self) -> None:
        """A peer and its disk are gone for good; one a run, and only if every chunk has a copy elsewhere."""
        peer = self._peer()
        if self.dead is None and self._is_dispensable(peer):
            self.dead = peer
            self.world.destroyed.update((peer.number, copy[1]) for copy in peer.disk.copies())
            self.world.unreliable.add(peer.number)
            peer.host.stop()
            self.world.note(f"the disk of {peer.host.name} dies")

    async def _forget(self) -> None:
        if self.dead is not None:
            await self._asks("forget", self.dead)

    def _lie(self) -> None:
        """A peer begins to lie; one a run, and only if every chunk has a copy elsewhere."""
        peer = self._peer()
        if self.liar is None and self._is_dispensable(peer):
            self.liar = peer
            self.world.unreliable.add(peer.number)
            others = [other for other in self.world.pool.peers if other is not peer]
            lies = Liar(peer, others, self.chance)
            self.world.note(f"{peer.host.name} {', '.join(sorted(lies.habits))} from now on")

    async def _revoke(self) -> None:
        """A peer is put out for ever; one a run, and only if every chunk has a copy elsewhere."""
        peer, coordinator = self._peer(), self.world.pool.coordinator
        if self.revoked is not None or not self._is_dispensable(peer) or not coordinator.host.is_up:
            return
        self.revoked = peer
        self.world.unreliable.add(peer.number)
        with trio.move_on_after(30):
            assert coordinator.services is not None
            try:
                await coordinator.services.membership.revoke(peer.host.identity.node)
                self.world.note(f"{peer.host.name} is revoked")
            except PoolError as error:
                self.world.note(f"revoke {peer.host.name}: {error}")

    def _turn_coordinators_clock(self) -> None:
        """By so much that no peer's clock agrees, whoever is heard; by less, a pool's clock is right."""
        clock = self.world.pool.coordinator.host.clock
        clock.ahead_s += self.chance.choice((-400 * 86400.0, 400 * 86400.0, -100 * 86400.0, 100 * 86400.0))
        self.world.note(f"the clock of the coordinator is {clock.ahead_s:g} s ahead")

    async def _confirm_clock(self) -> None:
        """Its clock is set right, and an admin says so."""
        coordinator = self.world.pool.coordinator
        if coordinator.host.is_up and coordinator.services is not None:
            coordinator.host.clock.ahead_s = 0.0
            with trio.move_on_after(30), contextlib.suppress(PoolError):
                await coordinator.services.pool_clock.confirm()
                self.world.note("the clock of the coordinator is confirmed")

    def _is_dispensable(self, peer: SimPeer) -> bool:
        return all(self._is_spare(peer, copy) for copy in peer.disk.copies())

    async def oversleep(self) -> None:
        """A mount's machine sleeps until its session is over, and wakes up."""
        using = self.world.using()
        if using:
            mount = self.chance.choice(using)
            self.world.note(f"{mount.host.name} sleeps for long")
            mount.host.hang()
            await trio.sleep(self.world.pool.settings.session_lifetime * 5 + 300 * self.chance.random())
            mount.host.resume()

    async def usurp(self, stamp: Callable[[SimMount], None]) -> None:
        """The mount to which the volume is delegated goes on without the coordinator, until another mount changes the
        volume; then it is heard again."""
        using = self.world.using()
        holder = next((mount for mount in using if mount.mounted is not None and mount.mounted.delegated.holds), None)
        if holder is None:
            return
        other = self.chance.choice([mount for mount in self.world.pool.mounts if mount is not holder])
        link = frozenset((holder.host.name, self.world.pool.coordinator.host.name))
        self.world.pool.network.cut.add(link)
        self.world.note(f"{holder.host.name}, which holds the delegation, and the coordinator are parted")
        stamp(holder)
        if other.mounted is None or other.mounted.is_over:
            other.host.stop()
            await self.start_mount(other)
        await trio.sleep(self.world.pool.settings.delegation + 2 * MARGIN_S)
        stamp(other)
        await trio.sleep(5.0)
        self.world.pool.network.cut.discard(link)
        self.world.note(f"{holder.host.name} and the coordinator find each other again")

    async def all_well(self) -> None:
        """Every fault that can end ends."""
        self.relieve()
        await self.start_all()
        await self._confirm_clock()

    def relieve(self) -> None:
        """What runs can work."""
        self._resume()
        self._heal()
        self._calm()
        self._empty()
        self._unstick()
        for peer in self.world.pool.peers:
            peer.disk.dies_in = None
            peer.host.clock.ahead_s = 0.0
