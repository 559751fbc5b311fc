"""What a plan of the coordinator means for a person: sentences, exit statuses, and the paths of files at risk.

The coordinator knows files by number; where a volume is mounted on this machine, its directories say their names.
"""

import os
import time
from collections import deque
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from p2pfs import exitcodes
from p2pfs.cli.connect import Coordinator
from p2pfs.cli.members import find_node
from p2pfs.cli.show import say
from p2pfs.errors import PoolError
from p2pfs.runtime import mounts
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_count, format_duration, format_size
from p2pfs.types import PoolId
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.plans import FilesAtRisk, PlanAnswer, PlanKind, PlanRequest

_SHOWN: Final = 20
"""Paths a person is shown of each volume."""
_LOOK_S: Final = 20.0
"""For how long a mount is searched for names."""


async def nodes_named(coordinator: Coordinator, names: Sequence[str]) -> list[NodeInfo]:
    """The nodes meant. Raises UserError: NOT_FOUND."""
    known = await coordinator.call("GET", "/nodes", None, list[NodeInfo])
    return [find_node(known, name) for name in names]


async def ask(coordinator: Coordinator, kind: PlanKind, nodes: Sequence[NodeInfo]) -> PlanAnswer:
    """What would happen."""
    return await coordinator.call("POST", "/plans", PlanRequest(kind, [node.node for node in nodes]), PlanAnswer)


def names_of(nodes: Sequence[NodeInfo]) -> str:
    """As in a sentence."""
    names = [node.name for node in nodes]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def to_copy(plan: PlanAnswer, kind: PlanKind) -> int:
    """Bytes that would be copied: what is gone cannot be."""
    gone = plan.wanted * plan.unreadable_bytes if kind is PlanKind.LOSE else 0
    return max(0, plan.short_bytes - gone)


def has_room(plan: PlanAnswer, kind: PlanKind) -> bool:
    """Whether those that stay and answer are enough, and have room, for the missing copies."""
    size = to_copy(plan, kind)
    return plan.staying > 0 and (not size or (plan.answering >= plan.wanted and plan.room_bytes >= size))


def seconds(plan: PlanAnswer, kind: PlanKind) -> float:
    """How long copying would take."""
    return to_copy(plan, kind) / plan.rate if plan.rate > 0 else 0.0


def exit_code(plan: PlanAnswer, kind: PlanKind) -> int:
    """OK: no chunk gets short (stop, lose), or it can be done (drain). HEALTH_WARNING: short for a while, or for as
    long as so few peers are there. HEALTH_ERROR: something cannot be read any more, or there is nowhere to go."""
    if not has_room(plan, kind) if kind is PlanKind.DRAIN else plan.unreadable:
        return exitcodes.HEALTH_ERROR
    short = plan.short if kind is not PlanKind.DRAIN else 0  # a drain makes up for it before it ends
    return exitcodes.HEALTH_WARNING if short or plan.thinned else exitcodes.OK


def thinning(plan: PlanAnswer) -> str:
    """Which chunks will have fewer copies than the pool is to keep; empty: none."""
    if not plan.thinned or not plan.staying:
        return ""
    return (
        f"{format_count(plan.thinned, 'chunk')} will have {format_count(plan.wanted, 'copy')}, fewer than "
        f"replicas={plan.replicas}: only {format_count(plan.staying, 'peer stays', 'peers stay')}, let another join"
        " first"
    )


def as_json(plan: PlanAnswer, kind: PlanKind, nodes: Sequence[NodeInfo], paths: dict[str, list[str]]) -> dict[str, Any]:
    """Everything, with what was worked out here."""
    found: dict[str, Any] = msgspec.to_builtins(plan)
    for risk in found["files"]:
        risk["paths"] = paths.get(risk["volume"], [])
    return found | {
        "kind": kind.value,
        "nodes": [{"node": node.node, "name": node.name} for node in nodes],
        "copy_bytes": to_copy(plan, kind),
        "copy_s": round(seconds(plan, kind), 1),
        "has_room": has_room(plan, kind),
        "exit_code": exit_code(plan, kind),
    }


def print_plan(plan: PlanAnswer, kind: PlanKind, nodes: Sequence[NodeInfo], paths: dict[str, list[str]]) -> None:
    """What would be copied, how long that takes, whether there is room, and what would be lost."""
    holds = "holds" if len(nodes) == 1 else "hold"
    say(f"{names_of(nodes)} {holds} {format_count(plan.held, 'chunk')}, {format_size(plan.held_bytes)}")
    size = to_copy(plan, kind)
    if size:
        about = "as measured lately" if plan.is_measured else "assumed"
        took = format_duration(max(1, round(seconds(plan, kind))))
        say(
            f"  to copy: {format_size(size)}, about {took} at {format_size(round(plan.rate))}/s ({about}), "
            f"to have {format_count(plan.wanted, 'copy')} on the "
            f"{format_count(plan.staying, 'peer that stays', 'peers that stay')}"
        )
        room = format_size(plan.room_bytes)
        if plan.answering < plan.wanted:
            say(f"  only {plan.answering} of them answer now: too few")
        else:
            say(f"  room there: {room}" + ("" if has_room(plan, kind) else ": not enough"))
    elif plan.held and not plan.short:
        say(f"  nothing to copy: the others hold {format_count(plan.wanted, 'copy')} of all of it")
    if thin := thinning(plan):
        say(f"  {thin}")
    print_risk(plan, kind, paths)


def print_risk(plan: PlanAnswer, kind: PlanKind, paths: dict[str, list[str]]) -> None:
    """Chunks and files that no other peer has."""
    if not plan.unreadable:
        return
    what = f"{format_count(plan.unreadable, 'chunk')}, {format_size(plan.unreadable_bytes)}"
    if kind is PlanKind.LOSE:
        say(f"  lost: no other peer that answers has a copy of {what}")
    else:
        say(f"  nowhere else now: no other peer that answers has a copy of {what}")
    for risk in plan.files:
        say(f"  volume {risk.owner}/{risk.name}: {format_count(risk.files, 'file')}")
        known = paths.get(risk.volume, [])
        for path in known[:_SHOWN]:
            say(f"    {path}")
        if known and risk.files > len(known[:_SHOWN]):
            say(f"    and {risk.files - len(known[:_SHOWN])} more")


# ---- names ----------------------------------------------------------------------------------------------------------


def find_paths(home: NodeHome, files: Sequence[FilesAtRisk]) -> dict[str, list[str]]:
    """Volume → paths of its files at risk, for volumes that are mounted on this machine; each mount is searched for
    twenty seconds at most."""
    pool, found = home.record().pool, {}
    for record in mounts.known() if files else ():
        risk = next(
            (one for one in files if record.identity in (one.name, f"{one.owner}/{one.name}", one.volume)), None
        )
        if risk is None or risk.volume in found or not _is_of(record, pool):
            continue
        found[risk.volume] = _walk(Path(record.mount_point), frozenset(risk.inodes), time.monotonic() + _LOOK_S)
    return found


def _is_of(record: mounts.MountRecord, pool: PoolId) -> bool:
    """Whether it is a live mount of this pool: only those are looked into, a dead one would hang us."""
    try:
        is_ours = NodeHome(Path(record.home)).record().pool == pool
    except PoolError:
        return False
    return is_ours and record.alive() and mounts.mounted_type(Path(record.mount_point)) == mounts.KERNEL_TYPE


def _walk(top: Path, inodes: Collection[int], until_s: float) -> list[str]:
    """Paths with these inode numbers; each file once however many names it has."""
    found: dict[int, str] = {}
    waiting = deque([str(top)])
    while waiting and len(found) < len(inodes) and time.monotonic() < until_s:
        try:
            with os.scandir(waiting.popleft()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.inode() in inodes:
                        found.setdefault(entry.inode(), entry.path)
        except OSError:  # gone meanwhile, or not ours to read
            continue
    return sorted(path.encode(errors="surrogateescape").decode(errors="replace") for path in found.values())
