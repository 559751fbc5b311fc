"""Who belongs to the pool: inviting, draining, revoking."""

from collections.abc import Mapping, Sequence

from p2pfs.coordinator.dashboard.figures import data_table, rate, size, span_of, state
from p2pfs.coordinator.dashboard.layout import Frame, hidden_token
from p2pfs.coordinator.dashboard.markup import (
    Child,
    Html,
    a,
    button,
    code,
    div,
    element,
    form,
    h2,
    input_,
    join,
    label,
    li,
    option,
    p,
    section,
    select,
    small,
    ul,
)
from p2pfs.runtime.sizes import format_count
from p2pfs.wire.membership import NodeInfo
from p2pfs.wire.plans import PlanAnswer

LIFETIMES = (("1 hour", 3600), ("1 day", 86400), ("7 days", 7 * 86400))
ROLES = (
    ("client", "may mount volumes", True),
    ("peer", "stores chunks of others", True),
    ("admin", "may do all that this page can", False),
)


_OWN_NODE = (
    "This is your own node: you are logged out at once, and no command on its machine works any more. Only the link of"
    " another admin lets you in again."
)


def content(nodes: Sequence[NodeInfo]) -> Html:
    """Every node that ever joined."""
    rows = (
        (
            node.name,
            state("revoked") if node.revoked else state("member", kind="up"),
            ", ".join(node.roles),
            node.zone or "—",
            code(node.node),
            "—"
            if node.revoked or "coordinator" in node.roles
            else a(
                "Revoke…", href=f"/nodes/{node.node}/revoke", id=f"revoke-{node.node}", aria_label=f"Revoke {node.name}"
            ),
        )
        for node in nodes
    )
    return section(h2("Nodes"), data_table("All nodes", ("node", "", "roles", "zone", "id", "actions"), rows))


def complaint(message: str) -> Html:
    """Why a form, which follows, was not taken."""
    return p(message, class_="notice", role="alert")


def invite_form(frame: Frame, typed: Mapping[str, str] | None = None) -> Html:
    """Asks what `p2pfs invite` asks; `typed` are the fields of a form that was not taken."""
    given = typed or {}
    chosen = given.get("role", "").split(",") if typed else [role for role, _, is_set in ROLES if is_set]
    lifetime = given.get("lifetime", str(LIFETIMES[1][1]))
    roles = element("fieldset")(
        element("legend")("Roles"),
        *(
            label(
                input_(type="checkbox", name="role", value=role, checked=role in chosen),
                f" {role} ",
                small(words),
                class_="check",
            )
            for role, words, _ in ROLES
        ),
    )
    lifetimes = (option(words, value=seconds, selected=str(seconds) == lifetime) for words, seconds in LIFETIMES)
    fields: list[Child] = [
        _field(
            "name",
            "Owner and machine",
            "anna@laptop",
            "the owner decides who may use which volumes",
            given,
            required=True,
        ),
        _field("zone", "Zone", "home", "where it stands: copies are spread over zones", given),
        _field("capacity", "At most", "200G", "what it may offer as a peer; empty: no limit", given),
        div(label("Valid for", for_="lifetime"), select(*lifetimes, id="lifetime", name="lifetime"), class_="field"),
        roles,
        button("Make an invite", type="submit", id="invite"),
    ]
    made = form(hidden_token(frame), *fields, method="post", action="/invites", autocomplete="off")
    return section(h2("Invite a machine"), made)


def _field(name: str, words: str, example: str, hint: str, given: Mapping[str, str], *, required: bool = False) -> Html:
    asked = input_(
        id=name, name=name, type="text", placeholder=example, required=required, aria_describedby=f"{name}-hint",
        value=given.get(name) or None,
        autocapitalize="none", spellcheck="false", maxlength=130,
    )  # fmt: skip
    return div(label(words, for_=name), asked, small(hint, id=f"{name}-hint"), class_="field")


def invited(name: str, invite: str, lifetime_s: float) -> Html:
    """The invite, shown once."""
    machine = name.rpartition("@")[2]
    return section(
        p(f"For {name}, good once within {span_of(lifetime_s)}. Hand it over like a password: it is not shown again."),
        element("output")(code(invite, class_="secret", id="invite-text"), aria_label="Invite"),
        p(f"On {machine}: run ", code("p2pfs join"), " and paste it."),
        p(a("Back to members", href="/members")),
    )


def ask_drain(frame: Frame, node: NodeInfo, plan: PlanAnswer) -> Html:
    """What draining a peer means, before it begins."""
    seconds = plan.short_bytes / plan.rate if plan.rate else 0.0
    staying = format_count(plan.staying, "peer that stays", "peers that stay")
    copies = format_count(plan.wanted, "copy")
    thin = f"{format_count(plan.thinned, 'chunk')} will have {copies} for good, fewer than the {plan.replicas} wanted."
    facts: list[Child] = [
        li(f"It holds {format_count(plan.held, 'chunk')} ({size(plan.held_bytes)})."),
        li(f"{plan.short} of them ({size(plan.short_bytes)}) must be copied to the {staying}."),
        li(f"Those have {size(plan.room_bytes)} free."),
        li(f"At {rate(plan.rate)} that takes about {span_of(max(1.0, seconds))}.") if plan.short_bytes else None,
        li(element("strong")(thin)) if plan.thinned and plan.staying else None,
    ]
    words = "It keeps serving until everything is copied, then it is let go. It can be called off at any time."
    return _confirm(frame, f"/nodes/{node.node}/drain", f"Drain {node.name}", p(words), ul(*facts))


def ask_revoke(frame: Frame, node: NodeInfo, *, is_own: bool = False) -> Html:
    """What revoking a node means; `is_own`: that of who asks."""
    facts = ul(
        li(_OWN_NODE) if is_own else None,
        li("Its certificate stops working everywhere within a heartbeat, and its connections are closed."),
        li("Copies on its disk no longer count: what has too few others is copied anew.") if node.peer else None,
        li("Its mounts end, and what they have not stored stays with them."),
        li("This is for good. It can only come back with a new invite, as a new node."),
    )
    advice = p("A peer that leaves in peace is drained first.") if node.peer else None
    return _confirm(frame, f"/nodes/{node.node}/revoke", f"Revoke {node.name}", facts, advice, is_grave=True)


def _confirm(frame: Frame, path: str, words: str, *text: Child, is_grave: bool = False) -> Html:
    return section(
        *text,
        form(
            hidden_token(frame),
            button(words, type="submit", id="confirm", class_="grave" if is_grave else None),
            a("Leave it", href="/members", class_="button"),
            method="post",
            action=path,
            class_="actions",
        ),
    )


def refused(message: str, back: str) -> Html:
    """Why something was not done."""
    return join(p(message, class_="notice", role="alert"), p(a("Back", href=back)))
