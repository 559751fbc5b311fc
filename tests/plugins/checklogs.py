"""pytest plugin: a log record of WARNING or worse that no test claimed fails the test.

A test that provokes warnings on purpose asks for `claim_logs` and calls it with a regular expression for the message:
`claim_logs("worker x: .*", count=2)`. A claim that nothing matched fails too.
"""

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest


@dataclass
class Claims:
    """What one test expects in the log. `count` None: any number, at least one."""

    wanted: list[tuple[re.Pattern[str], int | None]] = field(default_factory=list)

    def __call__(self, pattern: str, *, count: int | None = None) -> None:
        self.wanted.append((re.compile(pattern, re.DOTALL), count))

    def complaints(self, records: list[logging.LogRecord]) -> list[str]:
        """What is wrong about these records, in words."""
        hits = [0] * len(self.wanted)
        found: list[str] = []
        for record in records:
            message = record.getMessage()
            number = next((i for i, (pattern, _) in enumerate(self.wanted) if pattern.search(message)), None)
            if number is None:
                found.append(f"unclaimed {record.levelname} of {record.name}: {message}{_trace(record)}")
            else:
                hits[number] += 1
        for (pattern, count), hit in zip(self.wanted, hits, strict=True):
            if hit == 0 or (count is not None and hit != count):
                found.append(f"claimed {pattern.pattern!r} {count or 'at least 1'} times, logged {hit} times")
        return found


def _trace(record: logging.LogRecord) -> str:
    return "\n" + logging.Formatter().formatException(record.exc_info) if record.exc_info else ""


class _Gatherer(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def claim_logs() -> Claims:
    """Call it with a regular expression to expect matching records in this test."""
    return Claims()


@pytest.fixture(autouse=True)
def check_logs(claim_logs: Claims) -> Iterator[None]:
    """Fails the test at its end when records and claims do not agree."""
    gatherer = _Gatherer()
    root = logging.getLogger()
    root.addHandler(gatherer)
    try:
        yield
    finally:
        root.removeHandler(gatherer)
    complaints = claim_logs.complaints(gatherer.records)
    if complaints:
        pytest.fail("\n".join(complaints), pytrace=False)
