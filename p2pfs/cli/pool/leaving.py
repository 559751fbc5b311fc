"""`p2pfs peer away | drain | undrain | safe-to-stop | forget`: peers that go for a while, in peace, or for good."""

import contextlib
from collections.abc import Sequence
from typing import Any

import click
import msgspec

from p2pfs import exitcodes
from p2pfs.cli.members import find_node
from p2pfs.cli.options import home_option, json_option, require_answer, yes_option
from p2pfs.cli.show import print_json, say
from p2pfs.errors import Invalid, NotFound, Unavailable, UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_count, format_duration, format_size, given_duration
from p2pfs.types import PeerState, Role
from p2pfs.wire.jobs import JobInfo, JobKind, JobState
from p2pfs.wire.membership import AwayRequest, NodeInfo
from p2pfs.wire.plans import PlanAnswer, PlanKind

_BACK = "back"


@click.command("away")
@click.argument("time", metavar="TIME|back")
@click.argument("node", required=False)
@home_option
def away(time: str, node: str | None, home: NodeHome) -> int:
    """Tell that a peer will be silent for TIME, at most 31 days: its copies go on counting, and none is made anew.

    NODE is this home's own peer unless named; others need the role admin. Sleep and shutdown of the machine are
    announced by the daemon itself, where the system has login1. It is back with its next heartbeat after the silence,
    or with `back`.

    \b
    Examples:
      p2pfs peer away 8h
      p2pfs peer away 14d bob@nas
      p2pfs peer away back
    """
    try:
        for_s = 0.0 if time == _BACK else given_duration(time)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None
    told = _tell(home, node, "away", AwayRequest(for_s))
    say(f"{told.name} may be silent for {format_duration(for_s)}" if for_s else f"{told.name} is not away")
    return exitcodes.OK


@click.command("drain")
@click.argument("node", required=False)
@click.option("--wait/--no-wait", default=True, help="Show how far it is until the peer has left (the default).")
@yes_option
@home_option
@json_option
def drain(node: str | None, wait: bool, yes: bool, home: NodeHome, as_json: bool) -> int:
    """Let a peer leave in peace: what depends on it is copied elsewhere first, then it is let go.

    NODE is this home's own peer unless named; others need the role admin. The peer must stay up meanwhile: it is read
    from. Ctrl-C leaves the drain running. What its disk holds stays there and can be deleted afterwards.

    \b
    Examples:
      p2pfs peer drain
      p2pfs peer drain bob@nas --no-wait --yes
    """
    from p2pfs.cli import connect, plans

    require_answer(yes, as_json)

    async def look(coordinator: connect.Coordinator) -> tuple[NodeInfo, PlanAnswer | None]:
        found = await _meant(coordinator, home, node)
        if found.state == PeerState.LEFT:  # there is nothing to agree to: that it has is all that is told
            return found, None
        return found, await plans.ask(coordinator, PlanKind.DRAIN, [found])

    if yes:
        with contextlib.suppress(Unavailable, NotFound):  # a warning, which nobody waits for
            _, plan = connect.converse(home, look)
            if plan is not None and (thin := plans.thinning(plan)):
                say(thin, err=True)
    else:
        found, plan = connect.converse(home, look)
        if plan is not None and not _agreed(found, plan):
            return exitcodes.FAILED
    told = _tell(home, node, "drain")
    if told.state == PeerState.LEFT:
        return _say_left(told, as_json)
    if wait:
        return _await_left(home, told, as_json)
    return _say(told, f"{told.name} is being drained; it goes on by itself: p2pfs jobs -w", as_json)


@click.command("undrain")
@click.argument("node", required=False)
@home_option
def undrain(node: str | None, home: NodeHome) -> int:
    """Let a peer stay that was being drained, or come back that had left.

    \b
    Example:
      p2pfs peer undrain bob@nas
    """
    told = _tell(home, node, "undrain")
    say(f"{told.name} stays")
    return exitcodes.OK


@click.command("safe-to-stop")
@click.argument("names", nargs=-1, required=True, metavar="NODE...")
@home_option
@json_option
def safe_to_stop(names: tuple[str, ...], home: NodeHome, as_json: bool) -> int:
    """Say whether these peers can all be stopped now. Changes nothing.

    Exit status: 0 nothing gets short, 20 everything stays readable but chunks are short until they are back, 21
    something could not be read.

    \b
    Example:
      p2pfs peer safe-to-stop bob@nas && ssh bob@nas reboot
    """
    from p2pfs.cli import connect, plans

    async def talk(coordinator: connect.Coordinator) -> tuple[list[NodeInfo], PlanAnswer]:
        nodes = await plans.nodes_named(coordinator, names)
        return nodes, await plans.ask(coordinator, PlanKind.STOP, nodes)

    nodes, plan = connect.converse(home, talk)
    paths = plans.find_paths(home, plan.files)
    sentence = _verdict(nodes, plan)
    if as_json:
        more: dict[str, Any] = {"sentence": sentence}
        print_json(plans.as_json(plan, PlanKind.STOP, nodes, paths) | more)
    else:
        say(sentence)
        plans.print_risk(plan, PlanKind.STOP, paths)
    return plans.exit_code(plan, PlanKind.STOP)


@click.command("forget")
@click.argument("node")
@yes_option
@home_option
@json_option
def forget(node: str, yes: bool, home: NodeHome, as_json: bool) -> int:
    """Give a peer up that is gone for good: its copies count no more and are made anew from the others.

    Shows what would be lost, and asks. Refused while the peer answers: drain it then; and if all the others are being
    drained: what they hold could go nowhere. Should it be heard again after all, it is a member again, with what it
    still holds. Needs the role admin.

    \b
    Example:
      p2pfs peer forget bob@nas
    """
    from p2pfs.cli import connect, plans

    require_answer(yes, as_json)

    async def look(coordinator: connect.Coordinator) -> tuple[NodeInfo, PlanAnswer]:
        (found,) = await plans.nodes_named(coordinator, [node])
        return found, await plans.ask(coordinator, PlanKind.LOSE, [found])

    if not yes:
        found, plan = connect.converse(home, look)
        plans.print_plan(plan, PlanKind.LOSE, [found], plans.find_paths(home, plan.files))
        if not click.confirm(f"Forget {found.name} and every copy on it?"):
            return exitcodes.FAILED
    told = _tell(home, node, "forget")
    return _say(told, f"{told.name} is forgotten; what is short is copied now: p2pfs jobs -w", as_json)


# ---- what they share ------------------------------------------------------------------------------------------------


def _tell(home: NodeHome, node: str | None, action: str, message: AwayRequest | None = None) -> NodeInfo:
    from p2pfs.cli import connect

    async def talk(coordinator: connect.Coordinator) -> NodeInfo:
        found = await _meant(coordinator, home, node)
        return await coordinator.call("POST", f"/peers/{found.node}/{action}", message, NodeInfo)

    return connect.converse(home, talk)


async def _meant(coordinator: Any, home: NodeHome, name: str | None) -> NodeInfo:  # noqa: ANN401 - imported lazily
    """The node named, or this home's own peer."""
    if name is None and Role.PEER not in home.record().roles:
        raise UserError(
            f"the node in {home.path} is no peer: name the one that is meant, `p2pfs status` lists them",
            exitcodes.USAGE,
        )
    return find_node(await coordinator.call("GET", "/nodes", None, list[NodeInfo]), name or home.record().node)


def _verdict(nodes: Sequence[NodeInfo], plan: PlanAnswer) -> str:
    from p2pfs.cli import plans

    names, they = plans.names_of(nodes), "it" if len(nodes) == 1 else "they"
    if plan.unreadable:
        return (
            f"do not stop {names}: {format_count(plan.unreadable, 'chunk')} ({format_size(plan.unreadable_bytes)}) "
            f"could not be read until {they} {'is' if they == 'it' else 'are'} back"
        )
    if plan.short:
        return (
            f"{names} can be stopped for a while: everything stays readable, but {format_count(plan.short, 'chunk')} "
            f"({format_size(plan.held_bytes)}) {'has' if plan.short == 1 else 'have'} fewer than "
            f"{format_count(plan.wanted, 'copy')} until {they} {'is' if they == 'it' else 'are'} back; "
            "to leave for good: p2pfs peer drain"
        )
    return f"{names} can be stopped: the others hold {format_count(plan.wanted, 'copy')} of everything"


def _agreed(node: NodeInfo, plan: PlanAnswer) -> bool:
    """Show what the drain means, and ask."""
    from p2pfs.cli import plans

    plans.print_plan(plan, PlanKind.DRAIN, [node], {})
    thin = "with fewer copies of what it holds" if plans.thinning(plan) else ""
    return click.confirm(f"Let {node.name} leave the pool{', ' * bool(thin)}{thin}?")


def _await_left(home: NodeHome, node: NodeInfo, as_json: bool) -> int:
    """Show how far the drain is until the peer has left."""
    from p2pfs.cli import connect
    from p2pfs.cli.job_tables import follow
    from p2pfs.cli.progress import drain_bar

    last: JobInfo | None = None
    with drain_bar(node.name) as show:

        def see(jobs: list[JobInfo]) -> bool:
            nonlocal last
            drains = [job for job in jobs if job.kind == JobKind.DRAIN and job.subject == node.name]
            last = max(drains, key=lambda job: job.id, default=None)
            if last is None or last.ended_s is not None:
                return False
            show(last)
            return True

        try:
            connect.converse(home, lambda coordinator: follow(coordinator, see))
        except KeyboardInterrupt:
            say(f"the drain of {node.name} goes on: p2pfs jobs -w; to let it stay: p2pfs peer undrain", err=True)
            raise
    if last is not None and last.state != JobState.DONE:
        why = f": {last.error}" if last.error else ": it stays in the pool"
        raise UserError(f"the drain of {node.name} was {last.state}{why}", exitcodes.FAILED)
    return _say_left(node, as_json)


def _say_left(node: NodeInfo, as_json: bool) -> int:
    node = msgspec.structs.replace(node, state=PeerState.LEFT.value)
    return _say(node, f"{node.name} has left: nothing depends on it any more, and its daemon can be stopped", as_json)


def _say(node: NodeInfo, sentence: str, as_json: bool) -> int:
    if as_json:
        print_json(node)
    else:
        say(sentence)
    return exitcodes.OK
