"""Where log records go: one line each, for people, to standard error or a file.

Called once, by whatever process is the outermost. Modules only do `logging.getLogger(__name__)`. Nothing secret may be
logged; key types show nothing in their repr, and no message or header body is ever logged.
"""

import contextlib
import json
import logging
import os
import stat
import sys
import textwrap
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final, TextIO

from p2pfs.errors import Invalid, Unavailable
from p2pfs.types import MIB

_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.NOTSET, 7))
"""Lowest level → syslog's priority."""
LEVELS = ("debug", "info", "warning", "error")
FILE_BYTES: Final = 16 * MIB
FORMER_FILES: Final = 3
"""A full log becomes FILE.1, that one FILE.2, and so on; older ones are deleted."""


class _Lines(logging.Formatter):
    """`2027-01-15T08:00:00.123Z WARNING p2pfs.net.server: …`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _escaped(record.message.rstrip("\n"))  # what others sent may be in it
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:  # noqa: ANN401 - as in logging
        lines = super().formatException(ei).split("\n")
        return textwrap.indent("\n".join(map(_escaped, lines)), "  ")  # so that none can pass for a record

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        moment = datetime.fromtimestamp(record.created, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{int(record.msecs):03d}Z"


class _JournalLines(_Lines):
    """`<4>p2pfs.net.server: …`: the journal has times of its own, and takes the priority from the number."""

    def __init__(self) -> None:
        super().__init__()
        self._style = logging.PercentStyle("%(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        priority = _priority(record)
        return "\n".join(f"{priority}{line}" for line in super().format(record).split("\n"))


def _formatter(form: str, part: str, *, is_journal: bool) -> logging.Formatter:
    if form == "json":
        return _Objects(part, is_journal=is_journal)
    return _JournalLines() if is_journal else _Lines()


class _BoundedFile(RotatingFileHandler):
    """Appends to a file that never takes more than (FORMER_FILES + 1) × FILE_BYTES of the disk."""

    def __init__(self, file: Path) -> None:
        super().__init__(file, maxBytes=FILE_BYTES, backupCount=FORMER_FILES, encoding="utf-8")

    def doRollover(self) -> None:
        assert self.stream is not None, "shouldRollover opens it"
        full = os.fstat(self.stream.fileno())
        try:
            super().doRollover()
        except OSError:  # perhaps its directory takes no other files; tried again with the next record
            return
        file = self.stream.fileno()
        os.fchmod(file, stat.S_IMODE(full.st_mode))
        for output in (1, 2):  # of a daemon: what it says last belongs into the log, too
            with contextlib.suppress(OSError):
                if os.path.samestat(os.fstat(output), full):
                    os.dup2(file, output)


def _escaped(text: str) -> str:
    """`text` on one line, without anything that a terminal obeys."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _is_journal(stream: TextIO) -> bool:
    """Whether systemd's journal reads what is written there; it says so by device and inode."""
    try:
        found = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or no file at all
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{found.st_dev}:{found.st_ino}"


def _priority(record: logging.LogRecord) -> str:
    """As the journal takes it from the beginning of a line."""
    return f"<{next(number for level, number in _PRIORITIES if record.levelno >= level)}>"


class _Objects(_Lines):
    """`{"time":"2027-01-15T08:00:00.123Z","level":"warning","logger":"p2pfs.net.server","message":"…"}`"""

    def __init__(self, part: str, *, is_journal: bool) -> None:
        super().__init__()
        self._part, self._is_journal = part, is_journal

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip("\n"),
            "part": self._part,
            "pid": record.process,
        }
        if record.exc_info:
            fields["exception"] = super(_Lines, self).formatException(record.exc_info)
        return (_priority(record) if self._is_journal else "") + json.dumps(
            fields
        )  # in ASCII: nothing that a terminal obeys


class _Tally(logging.Handler):
    """Counts what should not be in a log."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.counts = {"warning": 0, "error": 0}

    def emit(self, record: logging.LogRecord) -> None:
        self.counts["warning" if record.levelno < logging.ERROR else "error"] += 1


_tally: Final = _Tally()


def counted() -> dict[str, int]:
    """Records of this process since `setup`: `warning`, `error` and worse."""
    return dict(_tally.counts)


def setup(level: str = "info", file: Path | None = None, *, form: str = "text", part: str = "") -> None:
    """Send records of `level` and above to `file` (appended, bounded) or to standard error; replaces earlier set-ups.
    `form` is `text`, or `json`, where each record also says which `part` of the pool this process is.

    Raises:
        Invalid: No such level.
        Unavailable: The file cannot be written.
    """
    if level.lower() not in LEVELS:
        raise Invalid(f"“{level}” is no log level: choose one of {', '.join(LEVELS)}")
    try:
        handler = _BoundedFile(file) if file else logging.StreamHandler(sys.stderr)
    except OSError as error:
        raise Unavailable(f"cannot write the log {file}: {error.strerror}") from error
    handler.setFormatter(_formatter(form, part, is_journal=file is None and _is_journal(sys.stderr)))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.addHandler(_tally)
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    # httpx tells every request at INFO; ours are told where they mean something.
    for chatty in ("httpx", "httpcore"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
