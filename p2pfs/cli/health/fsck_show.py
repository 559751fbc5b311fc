"""What `p2pfs fsck` found, for people and programs."""

from typing import Any

import click

from p2pfs import exitcodes
from p2pfs.cli.show import print_json, say
from p2pfs.runtime.sizes import format_count, format_size
from p2pfs.vfs.fsck.findings import Finding, Findings, State

_MOST_FILES = 5


def show(findings: Findings, volume: str, path: bytes, *, repair: bool, as_json: bool) -> int:
    """Print it all; the exit status."""
    exit_code = _exit_code(findings)
    if as_json:
        print_json(_as_json(findings, volume, path, exit_code))
        return exit_code
    for finding in findings.kept:
        _say(finding, repair=repair)
    for code, number in findings.dropped.items():
        click.echo(f"… and {number} more: {code}")
    for note in findings.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(_sum(findings))
    if not repair and findings.mendable(asking=False):
        click.echo("some of this can be mended: p2pfs fsck --repair")
    return exit_code


def _exit_code(findings: Findings) -> int:
    if not len(findings):
        return exitcodes.OK
    return exitcodes.FSCK_MENDED if findings.count(State.MENDED) == len(findings) else exitcodes.FSCK_LEFT


def _say(finding: Finding, *, repair: bool) -> None:
    state = {State.MENDED: "mended", State.LEFT: "left"}.get(finding.state, "wrong") if repair else "wrong"
    where = _text(finding.path) or "the volume"
    why = f"; not mended: {finding.why}" if finding.why else ""
    say(f"{state:7} {finding.code:11} {where}: {finding.message}{why}")
    others = finding.paths[1:]
    if others:
        more = f" and {len(others) - _MOST_FILES} more" if len(others) > _MOST_FILES else ""
        say(f"{'':19} also part of {', '.join(map(_text, others[:_MOST_FILES]))}{more}")


def _sum(findings: Findings) -> str:
    tally, mended = findings.tally, findings.count(State.MENDED)
    entries = format_count(tally.inodes, "file or directory", "files and directories")
    looked = f"checked {entries}, {format_count(tally.chunks, 'chunk')}"
    if tally.copies:
        looked += f", {format_count(tally.copies, 'copy')} ({format_size(tally.bytes_read)} read)"
    if not len(findings):
        return f"{looked}: nothing is wrong"
    return f"{looked}: {format_count(len(findings), 'finding')}, {mended} mended, {len(findings) - mended} left"


def _as_json(findings: Findings, volume: str, path: bytes, exit_code: int) -> dict[str, Any]:
    tally = findings.tally
    return {
        "volume": volume,
        "path": "/" + _text(path),
        "checked": {
            "inodes": tally.inodes,
            "directories": tally.directories,
            "chunks": tally.chunks,
            "copies": tally.copies,
            "bytes_read": tally.bytes_read,
        },
        "findings": [_described(finding) for finding in findings.kept],
        "not_listed": {str(code): number for code, number in findings.dropped.items()},
        "notes": findings.notes,
        "mended": findings.count(State.MENDED),
        "left": len(findings) - findings.count(State.MENDED),
        "exit_code": exit_code,
    }


def _described(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code.value,
        "path": _text(finding.path),
        "paths": [_text(path) for path in finding.paths],
        "inode": finding.inode,
        "chunk": finding.chunk.hex() if finding.chunk else None,
        "peer": finding.peer,
        "message": finding.message,
        "state": finding.state.value,
        "why": finding.why,
        "mend": finding.remedy.name.lower(),
        "asks": finding.asks,
    }


def _text(path: bytes) -> str:
    return path.decode("utf-8", "replace")
