"""A whole pool on one machine: its directory, its homes, and the order in which parts start and stop.

Everything goes the way it goes between machines: invites, joining, heartbeats, a mount with a passphrase. Called by
`p2pfs demo`.
"""

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from p2pfs import exitcodes
from p2pfs.cli import connect
from p2pfs.cli.pool import join
from p2pfs.cli.pool.kits import HandOver
from p2pfs.cli.report import parse
from p2pfs.cli.trying import demo_plan
from p2pfs.cli.trying.demo_parts import Launched, Part, PartState, end
from p2pfs.cli.trying.demo_plan import Plan
from p2pfs.cli.volumes import umount
from p2pfs.cli.volumes.mount import parse_options, require_machine
from p2pfs.errors import Exists, UserError
from p2pfs.format.invites import decode_invite
from p2pfs.runtime import mounts
from p2pfs.runtime.config import load
from p2pfs.runtime.config_file import is_written, write_settings
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.types import PeerState
from p2pfs.wire.membership import InviteAnswer, InviteRequest, NodeInfo
from p2pfs.wire.volumes import VolumeInfo

VOLUME: Final = "demo"
OWNER: Final = "demo"
_READY_S: Final = 60.0
_STOP_S: Final = 30.0
_HEARD: Final = frozenset({PeerState.UP.value, PeerState.DRAINING.value, PeerState.LEFT.value})
_POLL_S: Final = 0.1
_INVITE_S: Final = 600

Say = Callable[[str], None]


class DemoPool:
    """The pool below one directory."""

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root = root
        self.plan = plan

    # ---- what there is ----------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, root: Path) -> "DemoPool | None":
        """The pool made below `root` earlier, or None. Raises UserError when its file is damaged."""
        root = root.absolute()
        plan = demo_plan.read(root)
        return None if plan is None else cls(root, plan)

    @classmethod
    def prepare(
        cls,
        root: Path,
        *,
        mount: Path | None,
        peers: int | None,
        replicas: int | None,
        settings: dict[str, str],
        options: str | None = None,
    ) -> "DemoPool":
        """The pool below `root`, new or known, changed by what was given; checked, recorded, not started.

        Raises:
            UserError: Something given does not fit, or this machine cannot mount there.
        """
        parse_options(options or "")
        root = root.absolute()
        known = demo_plan.read(root)
        given = settings if replicas is None else settings | {"replicas": str(replicas)}
        pool = cls(root, demo_plan.decide(root, known, mount=mount, peers=peers, given=given, options=options))
        if known is not None and known.mount != pool.plan.mount and pool.mount().is_there():
            raise UserError(f"this pool is mounted at {known.mount}: stop it before you move it", exitcodes.BUSY)
        pool._require_mount_point()
        for part in pool.peers() if "capacity" in given else ():
            if NodeHome(part.home).exists():
                pool._keep_capacity(part)
        demo_plan.write(root, pool.plan)
        return pool

    @property
    def mount_point(self) -> Path:
        return mounts.canonical(self.plan.mount)

    @property
    def passphrase_path(self) -> Path:
        return self.root / "passphrase"

    @property
    def coordinator_home(self) -> NodeHome:
        return NodeHome(self.root / "coordinator")

    @property
    def mount_home(self) -> NodeHome:
        return NodeHome(self.root / "mount")

    def coordinator(self) -> Part:
        return self._server("coordinator", ("coordinator", "start"), self.plan.coordinator_port)

    def peers(self) -> list[Part]:
        ports = enumerate(self.plan.peer_ports, 1)
        return [self._server(f"peer-{number}", ("peer", "start"), port) for number, port in ports]

    def mount(self) -> Part:
        options = ("-o", self.plan.options) if self.plan.options else ()
        arguments = ("mount", *options, "--passphrase-file", str(self.passphrase_path), VOLUME, str(self.mount_point))
        return self._part("mount", arguments)

    def parts(self) -> list[Part]:
        """All, in the order of starting."""
        return [self.coordinator(), *self.peers(), self.mount()]

    def _server(self, name: str, arguments: tuple[str, ...], port: int) -> Part:
        address = f"{demo_plan.HOST}:{port}"
        return self._part(name, arguments, listen=address, advertise=address)

    def _keep_capacity(self, part: Part) -> None:
        """In the peer's configuration and not on its command line, so that `p2pfs share` changes it for good."""
        write_settings(NodeHome(part.home), {"capacity": self.plan.settings["capacity"]})

    def _part(self, name: str, arguments: tuple[str, ...], **settings: str) -> Part:
        home, pid_path = self.root / name, self.root / "run" / f"{name}.pid"
        log_path = self.root / "log" / f"{name}.log"
        # Its output goes there too, but only a log that its process knows of is kept within bounds.
        files = ("--home", str(home), "--pid-file", str(pid_path), "--log-file", str(log_path))
        given = [f"--set={key}={value}" for key, value in (self.plan.settings | settings).items() if key != "capacity"]
        return Part(
            name=name,
            home=home,
            arguments=(*arguments, *files, *given),
            pid_path=pid_path,
            log_path=log_path,
        )

    # ---- starting ---------------------------------------------------------------------------------------------------

    def start(self, say: Say) -> None:
        """Start what is not running, making what is not there yet; on return the mount is usable.

        Raises:
            UserError: What failed. Whatever this call had started is ended again.
        """
        started: list[Part] = []
        try:
            for part in self.parts():
                part.signal(signal.SIGCONT)
            self._start_coordinator(started, say)
            self._start_peers(started, say)
            self._start_mount(started, say)
        except BaseException:
            end(started[::-1], _STOP_S)
            raise

    def _start_coordinator(self, started: list[Part], say: Say) -> None:
        part = self.coordinator()
        if not self.coordinator_home.exists():
            from p2pfs.coordinator.init import initialise

            kit = self.root / "recovery-kit"
            held = [part for part in self.peers() if part.home.exists()]
            if kit.exists() and held:
                raise UserError(
                    f"the coordinator's directory is gone, but its peers are there. Bring it back:"
                    f" p2pfs coordinator restore --home {self.coordinator_home.path} --kit {kit} --peer HOST:PORT"
                    f" --set listen={demo_plan.HOST}:{self.plan.coordinator_port}; where a peer is, its log says",
                    exitcodes.FAILED,
                )
            say("making the pool")
            address = f"{demo_plan.HOST}:{self.plan.coordinator_port}"
            settings = self.plan.settings | {"listen": address}
            name = f"{OWNER}@coordinator"
            kit.unlink(missing_ok=True)  # of a start that was killed
            initialise(
                part.home,
                pool_name="demo",
                name=name,
                addresses=[address],
                settings=settings,
                hand_over=HandOver(kit).take,
            )
        self._launch([part], started, say)

    def _start_peers(self, started: list[Part], say: Say) -> None:
        parts = self.peers()
        for part in parts:
            self._enrol(part, ["peer"])
            if not is_written(NodeHome(part.home), "capacity"):
                self._keep_capacity(part)
        self._launch(parts, started, say)
        self._await_peers([NodeHome(part.home).record().node for part in parts])

    def _start_mount(self, started: list[Part], say: Say) -> None:
        part = self.mount()
        self._enrol(part, ["client", "admin"])
        volumes = connect.call(self.mount_home, "GET", "/volumes", None, list[VolumeInfo])
        if all(volume.name != VOLUME for volume in volumes):
            say("making the volume")
            self._make_volume()
        self._launch([part], started, say)

    def _launch(self, parts: Sequence[Part], started: list[Part], say: Say) -> None:
        wanted = [part for part in parts if part.state() is not PartState.RUNNING]
        if not wanted:
            return
        say("starting " + ", ".join(part.name for part in wanted))
        started += wanted
        for launched in [Launched(part) for part in wanted]:
            launched.await_ready(_READY_S)

    def _enrol(self, part: Part, roles: list[str]) -> None:
        """Invite and join a node for this part, unless it has a home already."""
        home = NodeHome(part.home)
        if home.exists():
            return
        request = InviteRequest(f"{OWNER}@{part.name}", roles, lifetime_s=_INVITE_S)
        try:
            answer = connect.call(self.coordinator_home, "POST", "/invites", request, InviteAnswer)
        except Exists:
            # A start was killed between joining and keeping the certificate: nobody has that node's key.
            self._revoke(request.name)
            answer = connect.call(self.coordinator_home, "POST", "/invites", request, InviteAnswer)
        join.enter(home, decode_invite(answer.invite), {})

    def _revoke(self, name: str) -> None:
        for node in connect.call(self.coordinator_home, "GET", "/nodes", None, list[NodeInfo]):
            if node.name == name and not node.revoked:
                connect.call(self.coordinator_home, "POST", f"/nodes/{node.node}/revoke", None, NodeInfo)

    def _await_peers(self, nodes: Sequence[str]) -> None:
        """Until the coordinator has heard of all of them, so that the first write finds every peer. Who has left the
        pool is not waited for: it is heard, and no member."""
        deadline = time.monotonic() + _READY_S
        while True:
            peers = parse(connect.fetch(self.coordinator_home, "/status"))["peers"]
            waiting = set(nodes) - {peer["node"] for peer in peers if peer["state"] in _HEARD}
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise UserError(
                    f"{len(waiting)} of {len(nodes)} peers did not report to the coordinator; see {self.root}/log",
                    exitcodes.UNREACHABLE,
                )
            time.sleep(_POLL_S)

    def _make_volume(self) -> None:
        from p2pfs.cli.volumes import volume_keys

        # Passphrase first: a volume whose passphrase nobody kept would be lost.
        if not self.passphrase_path.exists():
            write_durably(self.passphrase_path, f"{secrets.token_urlsafe(18)}\n".encode(), 0o600)
        phrase = self.passphrase_path.read_text(encoding="ascii").strip()
        made = volume_keys.create(
            self.mount_home,
            VOLUME,
            lambda: phrase,
            settings=load(self.root, self.plan.settings),
            owner=(os.geteuid(), os.getegid()),
            time_ns=time.time_ns(),
        )
        write_durably(self.root / "recovery-phrase", f"{made.recovery_phrase}\n".encode(), 0o600)

    def _require_mount_point(self) -> None:
        """Make the directory, and find out now rather than after a minute whether it and this machine will do.

        Raises:
            UserError: NO_FUSE, BAD_MOUNT_POINT.
        """
        if self.mount().is_there():
            return
        if mounts.mounted_type(self.mount_point) is None:
            try:
                Path(self.plan.mount).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"cannot make the mount point {self.plan.mount}: {error.strerror}", exitcodes.BAD_MOUNT_POINT
                ) from None
        require_machine(self.mount_point)

    # ---- stopping ---------------------------------------------------------------------------------------------------

    def stop(self, say: Say) -> int:
        """End every part, the mount first and after it has stored everything; the exit code.

        Cut short, it can be called again.
        """
        for part in self.parts():
            part.signal(signal.SIGCONT)
        code = self._stop_mount(say)
        running = [part for part in self.peers() if part.is_there()]
        if running or self.coordinator().is_there():
            say("stopping the peers and the coordinator")
        for part in (*end(self.peers(), _STOP_S), *end([self.coordinator()], _STOP_S)):
            say(f"{part.name} did not stop and was killed")
            code = code or exitcodes.FAILED
        return code

    def _stop_mount(self, say: Say) -> int:
        part, code = self.mount(), exitcodes.OK
        record = mounts.find(self.mount_point)
        if part.is_there() or (record is not None and record.alive()):  # perhaps mounted again by hand
            say("unmounting")
            try:
                umount.unmount(self.mount_point, lambda _pending: None)
            except UserError as error:
                if error.exit_code == exitcodes.DATA_NOT_STORED:
                    code = error.exit_code
                say(str(error))
        if end([part], _STOP_S + load(self.root, self.plan.settings).io_timeout):
            say("the mount did not stop and was killed")
            code = code or exitcodes.FAILED
        with contextlib.suppress(UserError):
            umount.clear_dead(self.mount_point)
        return code
