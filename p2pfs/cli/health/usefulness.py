"""`p2pfs usefulness`: who gives how much and takes how much, and what that means for them."""

import math
import time
from typing import Final

import click

from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_size
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.usefulness import (
    Advice,
    Gave,
    NodeUsefulness,
    OwnerUsefulness,
    Rules,
    UsefulnessDetail,
    UsefulnessReport,
)

_PRIORITIES: Final = ("first", "next", "last")
_COUNTS: Final = ("served", "fetched", "took in", "placed")


@click.command("usefulness")
@click.argument("node", required=False)
@click.option("--explain", is_flag=True, help="Every input of the coefficient, day by day, and what would raise it.")
@home_option
@json_option
def command(node: str | None, explain: bool, home: NodeHome, as_json: bool) -> int:
    """Show how useful owners and nodes are to the others, and what policy `fair` gives them for it.

    The coefficient is what a node gave (served for others' reads, took in to store) divided by what it took (fetched
    for its own, placed on others), over thirty days of which older ones count less. docs/usefulness.md explains it.
    With NODE only that node and its owner are shown; --explain without NODE explains this machine's.

    \b
    Examples:
      p2pfs usefulness
      p2pfs usefulness --explain
      p2pfs usefulness bob@nas --explain --json
    """
    from p2pfs.cli import connect, members

    async def talk(coordinator: connect.Coordinator) -> UsefulnessReport | UsefulnessDetail:
        if node is None and not explain:
            return await coordinator.call("GET", "/usefulness", None, UsefulnessReport)
        wanted: str = home.record().node
        if node is not None:
            wanted = members.find_node(await coordinator.call("GET", "/nodes", None, list[NodeInfo]), node).node
        return await coordinator.call("GET", f"/nodes/{wanted}/usefulness", None, UsefulnessDetail)

    answer = connect.converse(home, talk)
    if as_json:
        print_json(answer)
    elif isinstance(answer, UsefulnessReport):
        _print_rules(answer.rules)
        _print_owners(answer.owners)
        _print_nodes(answer.nodes)
    else:
        _print_detail(answer, explain=explain)
    return 0


def _print_rules(rules: Rules) -> None:
    meaning = "nothing depends on it" if rules.policy == "open" else "it bounds what is written from now on"
    say(f"policy {rules.policy}: {meaning}")


def _print_owners(owners: list[OwnerUsefulness]) -> None:
    rows = [
        (
            one.owner,
            shown(one.coefficient),
            *_counts(one.counts),
            format_size(one.placed),
            format_size(one.held),
            "" if one.allowed is None else format_size(one.allowed),
            f"{one.copies}",
            "" if one.allowed is None else _PRIORITIES[one.priority],
        )
        for one in owners
    ]
    titles = ("owner", "coefficient", *_COUNTS, "on others", "for others", "allowed", "copies", "copied")
    print_table(titles, rows, right=titles[1:-1])


def _print_nodes(nodes: list[NodeUsefulness]) -> None:
    titles = ("node", "coefficient", *_COUNTS)
    rows = [(one.name, shown(one.coefficient), *_counts(one.counts)) for one in nodes]
    print_table(titles, rows, right=titles[1:])


def _print_detail(detail: UsefulnessDetail, *, explain: bool) -> None:
    _print_rules(detail.rules)
    _print_owners([detail.owner])
    _print_nodes(detail.owner_nodes if explain else [detail.node])
    if not explain:
        return
    rules, counts, owner = detail.rules, detail.owner.counts, detail.owner
    above = f"{format_size(counts.u_usual)} + {rules.weight_ds:g}·{format_size(counts.d_special)}"
    below = f"{format_size(counts.d_usual)} + {rules.weight_us:g}·{format_size(counts.u_special)}"
    say(f"\n{owner.owner}: ({above}) / ({below}) = {shown(owner.coefficient)}")
    say(
        f"  bytes of the last {rules.windows} days, a day's worth half after {rules.half_life:g} days; "
        "traffic among one owner's nodes does not count"
    )
    if detail.days:
        say(f"\n{detail.node.name}, day by day:")
        titles = ("day", "counts", *_COUNTS)
        rows = [
            (time.strftime("%Y-%m-%d", time.gmtime(day.day * 86400)), f"{day.weight:.0%}", *_counts(day.counts))
            for day in detail.days
        ]
        print_table(titles, rows, right=titles[1:])
    if detail.unconfirmed_served or detail.unconfirmed_fetched:
        say(
            f"  told by one end alone, and not counted: {format_size(detail.unconfirmed_served)} served, "
            f"{format_size(detail.unconfirmed_fetched)} fetched"
        )
    click.echo()
    for line in sentences(detail):
        say(line)


def sentences(detail: UsefulnessDetail) -> list[str]:
    """What follows from the figures, and what would raise them."""
    rules, owner = detail.rules, detail.owner
    lines = []
    if owner.allowed is not None and owner.left is not None:
        lines.append(
            f"{owner.owner} has {format_size(owner.placed)} on others' peers, all copies counted, "
            f"and may have {format_size(owner.allowed)}: {format_size(owner.left)} more"
        )
        bound = owner.allowed - owner.placed - owner.left
        if owner.left and bound > 0:
            lines.append(f"  {format_size(bound)} that its own peers hold beyond what belongs on them count as there")
        lines.append(
            f"  {format_size(rules.grant + owner.held)} in any case: a grant of {format_size(rules.grant)}, "
            f"and as much as its peers hold for others"
        )
        copies = "copy" if owner.copies == 1 else "copies"
        lines.append(
            f"  what it writes gets {owner.copies} {copies} (the pool's {rules.replicas}), "
            f"and is copied {_PRIORITIES[owner.priority]} among what is equally urgent"
        )
    lines += [_advice(advice) for advice in detail.advice]
    if not detail.advice:
        lines.append(f"{owner.owner} gives as much as it takes: nothing needs to be raised")
    return lines


def _advice(advice: Advice) -> str:
    size = format_size(advice.bytes)
    return {
        "offer_peer": "  to raise it: offer a peer (`p2pfs peer start`), so that others' data can be stored there",
        "store": f"  to raise it to 1: take in {size} of others' data; what a peer is given depends on its room",
        "serve": f"  or serve {size} for others' reads, or any mixture of the two",
        "hold": f"  to place more: let its peers take in {size} more of others' data, as far as others store any",
        "remove": f"  or remove data: {size} less on others' peers and it may grow again, once that is purged",
    }.get(advice.code, f"  {advice.code}: {size}")


def _counts(counts: Gave) -> tuple[str, str, str, str]:
    return (
        format_size(counts.u_usual),
        format_size(counts.d_usual),
        format_size(counts.d_special),
        format_size(counts.u_special),
    )


def shown(coefficient: float) -> str:
    """0.42, 17, ∞."""
    if math.isinf(coefficient):
        return "∞"
    return f"{coefficient:.2f}" if coefficient < 10 else f"{coefficient:.0f}"
