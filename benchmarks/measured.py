"""`workload.py`, unchanged, with each phase's cost for the system under test: processor time and peak memory of each of
its parts, and bytes fetched.

Looks only before and after a phase, outside the time it takes. Processor time counts until the system is quiet again,
so that work which was put off is billed to the phase that caused it, and to no other.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import workload
from pool import MIB, forget_peak, peak_mib, processor_s
from systems import System

QUIET_S = 0.3
"""Over such a time a quiet system uses at most …"""
QUIET_SHARE = 0.1
"""… of a processor."""
LONGEST_QUIET_S = 15.0


class Meter:
    """The cost of one phase for one system; begins when made."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._parts = system.processes()
        self._fetched = system.fetched_bytes()
        for pid in self._parts:
            with contextlib.suppress(OSError):
                forget_peak(pid)
        self._began = self._processor_s()

    def _processor_s(self) -> dict[int, float]:
        used = {}
        for pid in self._parts:
            with contextlib.suppress(OSError):
                used[pid] = processor_s(pid)
        return used

    def read(self, units: float) -> dict[str, Any]:
        """Waits until the system is quiet, then what the phase took, for so many units of it."""
        fetched = self._system.fetched_bytes()
        self._settle()
        ended, cpu_ms, peak = self._processor_s(), dict[str, float](), dict[str, float]()
        for pid, part in self._parts.items():
            used_s = ended.get(pid, 0.0) - self._began.get(pid, 0.0)
            cpu_ms[part] = cpu_ms.get(part, 0.0) + 1000 * max(0.0, used_s) / max(units, 1)
            with contextlib.suppress(OSError):
                peak[part] = max(peak.get(part, 0.0), peak_mib(pid))
        row: dict[str, Any] = {"system_cpu_ms_per_unit": sum(cpu_ms.values()), "cpu_ms_by_part": cpu_ms}
        row["peak_mib_by_part"] = peak
        if fetched is not None and self._fetched is not None:
            row["fetched_mib"] = (fetched - self._fetched) / MIB
        return row

    def _settle(self) -> None:
        limit = time.monotonic() + LONGEST_QUIET_S
        before = sum(self._processor_s().values())
        while self._parts and time.monotonic() < limit:
            time.sleep(QUIET_S)
            now = sum(self._processor_s().values())
            if now - before <= QUIET_SHARE * QUIET_S and not self._system.unsaved_bytes():
                return
            before = now


class Measured(workload.Workload):
    def __init__(self, args: argparse.Namespace, system: System) -> None:
        super().__init__(args)
        self._system = system

    @contextlib.contextmanager
    def phase(self, name: str, unit: str, cap_s: float, cold: str = "no") -> Iterator[workload.Phase]:
        phase = super().phase(name, unit, cap_s, cold)
        meter = Meter(self._system)
        with phase:
            yield phase
        self.results[name] |= meter.read(phase.done)


def run(system: System, out: Path, arguments: argparse.Namespace) -> None:
    """One run of the workload on a system that has started; its rows are in `out`, as `workload.py` writes them. Ends
    the process: with status 1 if a phase failed or a byte was wrong."""
    os.setpgid(0, 0)  # so that whoever ends it ends its remounting too
    given = argparse.Namespace(
        directory=str(system.directory),
        remount=system.remount,
        size=arguments.size,
        files=arguments.files,
        only=arguments.only,
    )
    measured = Measured(given, system)
    try:
        measured.run()
    except (workload.WrongData, OSError, subprocess.SubprocessError) as error:
        measured.results["wrong_data"] = {"error": repr(error)}
        print(f"FAILED: {error!r}", file=sys.stderr)
    out.write_text(json.dumps(measured.results))
    sys.exit(any("error" in row for row in measured.results.values()))
