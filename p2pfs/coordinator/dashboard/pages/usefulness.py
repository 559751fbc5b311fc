"""Who gives and who takes, and what follows from it."""

import math
from collections.abc import Sequence

from p2pfs.coordinator.dashboard.figures import data_table, size
from p2pfs.coordinator.dashboard.markup import Html, h2, join, p, section
from p2pfs.wire.usefulness import NodeUsefulness, OwnerUsefulness, Rules, UsefulnessReport

_GAVE = ("served to others", "fetched for itself", "stored for others", "placed on others")


def content(report: UsefulnessReport) -> Html:
    """Owners, then their nodes."""
    return join(
        p(_rules(report.rules)),
        section(h2("Owners"), _owners(report.owners, is_fair=report.rules.policy == "fair")),
        section(h2("Nodes"), _nodes(report.nodes)),
    )


def _rules(rules: Rules) -> str:
    counted = f"Bytes of the last {rules.windows} days, older ones counting less (half after {rules.half_life:g} days)."
    if rules.policy == "fair":
        return (
            f"Policy fair: who gives little may take little, with {size(rules.grant)} granted to everybody. {counted}"
        )
    return f"Policy {rules.policy}: the coefficient has no consequences. {counted}"


def _owners(owners: Sequence[OwnerUsefulness], *, is_fair: bool) -> Html:
    titles = ["owner", "coefficient", "peers", "its copies on others", "others' copies on its peers", *_GAVE]
    rows = []
    for one in owners:
        counts = one.counts
        row = [one.owner, _number(one.coefficient), f"{one.peers}", size(one.placed), size(one.held)]
        row += map(size, (counts.u_usual, counts.d_usual, counts.d_special, counts.u_special))
        if is_fair:
            row += [f"{one.copies}", size(one.left) if one.left is not None else "—"]
        rows.append(row)
    titles += ["copies of its chunks", "may still place"] if is_fair else []
    return data_table("Usefulness of owners", titles, rows, right=titles[1:])


def _nodes(nodes: Sequence[NodeUsefulness]) -> Html:
    rows = (
        (
            one.name,
            one.owner,
            _number(one.coefficient),
            *map(size, (one.counts.u_usual, one.counts.d_usual, one.counts.d_special, one.counts.u_special)),
        )
        for one in nodes
    )
    titles = ("node", "owner", "coefficient", *_GAVE)
    return data_table("Usefulness of nodes", titles, rows, right=titles[2:])


def _number(coefficient: float) -> str:
    return f"{coefficient:.2f}" if math.isfinite(coefficient) else "∞"
