"""`p2pfs plan`: what would happen if peers left, or were lost."""

import click

from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json
from p2pfs.cli.waiting import waiting
from p2pfs.runtime.home import NodeHome
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.plans import PlanAnswer, PlanKind


@click.group("plan")
def command() -> None:
    """Say beforehand what draining or losing peers would mean. Changes nothing.

    \b
    Examples:
      p2pfs plan drain bob@nas
      p2pfs plan lose bob@nas carl@nas
    """


@command.command("drain")
@click.argument("node")
@home_option
@json_option
def drain(node: str, home: NodeHome, as_json: bool) -> int:
    """How much would be copied if NODE left in peace, how long that takes, and whether there is room.

    Exit status: 0 it can be done, 20 fewer copies than `replicas` would be left, as too few peers stay, 21 there is
    not room enough, or no peer stays.

    \b
    Example:
      p2pfs plan drain bob@nas
    """
    return _plan(home, PlanKind.DRAIN, (node,), as_json)


@command.command("lose")
@click.argument("nodes", nargs=-1, required=True, metavar="NODE...")
@home_option
@json_option
def lose(nodes: tuple[str, ...], home: NodeHome, as_json: bool) -> int:
    """What would be lost if these peers were gone at once with all they hold.

    Files at risk are counted for each volume; where a volume is mounted on this machine, their paths are shown.

    Exit status: 0 no chunk loses a wanted copy, 20 nothing is lost and copies have to be made anew, 21 something is
    lost.

    \b
    Examples:
      p2pfs plan lose bob@nas
      p2pfs plan lose bob@nas carl@nas --json | jq '.files[].paths'
    """
    return _plan(home, PlanKind.LOSE, nodes, as_json)


def _plan(home: NodeHome, kind: PlanKind, names: tuple[str, ...], as_json: bool) -> int:
    from p2pfs.cli import connect, plans

    async def talk(coordinator: connect.Coordinator) -> tuple[list[NodeInfo], PlanAnswer]:
        nodes = await plans.nodes_named(coordinator, names)
        return nodes, await plans.ask(coordinator, kind, nodes)

    with waiting("planning"):
        nodes, answer = connect.converse(home, talk)
        paths = plans.find_paths(home, answer.files)
    if as_json:
        print_json(plans.as_json(answer, kind, nodes, paths))
    else:
        plans.print_plan(answer, kind, nodes, paths)
    return plans.exit_code(answer, kind)
