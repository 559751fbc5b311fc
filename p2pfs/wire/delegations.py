"""Delegations on the wire: the coordinator's word to a mount that it alone changes its volume (design: journeys).

    ask ──granted──▶ held ──a renewal every third of its time──▶ held
                      │──recalled, or another session wants to change something──▶ returned (emptied queue, names and
                      │                                                            attributes forgotten)
                      └──not renewed in time──▶ over: the first change by another session fences it, by a higher epoch

An epoch is per volume, never given twice and rises with every grant and every fencing. A batch that carries one is
refused (Overruled) unless it is the epoch in force and its session holds it. While another session holds the
delegation, a batch without one is refused with Recalling: nothing was done or remembered, it is to be sent again.
"""

import msgspec


class AskDelegation(msgspec.Struct, frozen=True, array_like=True):
    """`POST /sessions/{session}/delegation` → Delegation: ask for it, or renew it.

    `epoch` is that of the delegation held, 0 for none.
    """

    epoch: int = 0


class Delegation(msgspec.Struct, frozen=True, array_like=True):
    """The answer. With an `epoch` the session holds the volume's delegation for `lasts_s`, counted by the holder from
    when it sent the request, by the coordinator from when it answered and a margin. Without (0), it does not, and may
    ask again after `lasts_s`."""

    epoch: int
    lasts_s: float


class ReturnDelegation(msgspec.Struct, frozen=True, array_like=True):
    """`POST /sessions/{session}/delegation/return` → Delegation (none): everything done under the delegation is
    committed, and nothing is answered from memory any more. The holder's kernel may do so for `timeouts_s` more: until
    then, or until the same comes again with less, changes of others wait. Again, or with an epoch that is over, is
    fine."""

    epoch: int
    timeouts_s: float
