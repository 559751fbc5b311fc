"""Questions about one volume, many at a time, without a session: what was committed, whoever has the volume mounted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from p2pfs.errors import Misuse, PoolError
from p2pfs.format.keys import VolumeKeys
from p2pfs.meta.calls import CoordinatorCalls
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.answers import Answer, unwrap
from p2pfs.wire.namespace import Question

T = TypeVar("T")
AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """A volume, its keys and who answers about it."""

    calls: CoordinatorCalls
    volume: VolumeId
    keys: VolumeKeys

    async def ask(self, question: Question, kind: type[T]) -> T:
        """Raises what the coordinator refuses it with, CoordinatorAway."""
        return unwrap((await self._answers([question]))[0], kind)

    async def ask_all(self, questions: Sequence[Question], kind: type[T]) -> list[T | PoolError]:
        """The answers in order, refusals among them. What is too long for one answer is asked for in parts."""
        found: list[T | PoolError] = []
        for first in range(0, len(questions), AT_ONCE):
            for given in await self._in_parts(questions[first : first + AT_ONCE]):
                try:
                    found.append(unwrap(given, kind))
                except PoolError as error:
                    found.append(error)
        return found

    async def _in_parts(self, questions: Sequence[Question]) -> list[Answer]:
        try:
            return await self._answers(questions)
        except Misuse:
            if len(questions) == 1:
                raise
        half = len(questions) // 2
        return await self._in_parts(questions[:half]) + await self._in_parts(questions[half:])

    async def _answers(self, questions: Sequence[Any]) -> list[Answer]:
        path = f"/volumes/{volume_name(self.volume)}/questions"
        return await self.calls.ask("POST", path, list(questions), list[Answer])
