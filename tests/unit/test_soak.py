"""The soak's own judgement: what it plans; and that a lost byte, a leak and an unexplained warning are found."""

import contextlib
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from soak import memory, report, warnings
from soak.memory import MIB, Sample
from soak.schedule import LAST, LEAST_PEERS, MOST_PEERS, SPARED_FROM, Fault, Schedule, Step
from soak.tree import CHANGES_NOTHING, MOST_BYTES, MOST_NAMES, Kind, Operation, Tree, temporary
from soak.warnings import Past, Warned
from soak.worker import SEEN_WITHIN_S, Broken, Gate, Silence, Worker, contents

pytestmark = pytest.mark.l0

BACK_S = 200.0
PEERS, MOUNTS, VETERANS = ["peer-1", "peer-2", "peer-3", "peer-4", "peer-5"], ["mount", "anna"], ["peer-1", "anna"]


# ---- which fault comes next ------------------------------------------------------------------------------------------


def planned(seed: str, count: int = 200) -> list[tuple[float, Step]]:
    schedule = Schedule.made(seed, peers=PEERS, mounts=MOUNTS, veterans=["coordinator", *VETERANS])
    return [(number / count, schedule.next(number / count)) for number in range(count)]


def test_a_seed_is_a_schedule() -> None:
    assert planned("1") == planned("1") != planned("2")


@pytest.mark.parametrize("seed", range(20))
def test_every_fault_comes_and_disks_go_only_while_enough_are_left(seed: int) -> None:
    steps = planned(str(seed))
    assert {step.fault for _, step in steps} == set(Fault)
    peers, spared = set(PEERS), {"coordinator", *VETERANS}
    for progress, step in steps:
        if step.fault is Fault.JOIN:
            assert step.part not in peers
            peers.add(step.part)
        elif step.fault in (Fault.LOSE, Fault.DRAIN):
            assert len(peers) > LEAST_PEERS
            assert step.part not in spared
            peers.remove(step.part)
        elif step.fault in (Fault.KILL, Fault.RESTART) and progress >= SPARED_FROM:
            assert step.part not in spared
        assert len(peers) <= MOST_PEERS
        assert not step.part.startswith("peer") or step.part in peers or step.fault in (Fault.LOSE, Fault.DRAIN)
        assert progress < LAST or step.fault is Fault.LOOK


@pytest.mark.parametrize("count", [40, 200])
def test_everything_is_upgraded_once_the_coordinator_first_and_restored_behind_that(count: int) -> None:
    steps = [step for _, step in planned("7", count)]
    upgraded = [step.part for step in steps if step.fault is Fault.UPGRADE]
    gone = {step.part for step in steps if step.fault in (Fault.LOSE, Fault.DRAIN)}
    assert upgraded[0] == "coordinator"
    assert len(upgraded) == len(set(upgraded))
    assert {"coordinator", *PEERS, *MOUNTS} - gone <= set(upgraded)
    faults = [step.fault for step in steps]
    assert faults.count(Fault.RESTORE) == 1
    assert faults.index(Fault.RESTORE) > len(faults) - 1 - faults[::-1].index(Fault.UPGRADE)


# ---- what may be found -----------------------------------------------------------------------------------------------


def test_a_tree_asks_for_everything_and_stays_small() -> None:
    tree, chance, done = Tree(), random.Random(1), Counter[Kind]()
    for _ in range(3000):
        operation = tree.choose(chance)
        operation = replace(operation, size=min(operation.size, 4096))  # what matters is which, not how much
        tree.begin(operation)
        tree.finish()
        done[operation.kind] += 1
        assert len(tree.names) <= MOST_NAMES
        assert tree.total() <= MOST_BYTES
    assert set(done) == set(Kind)


FILE = Operation(Kind.PUT, "file", size=1000, seed=1)
DATA = FILE.data()
MORE = Operation(Kind.APPEND, "file", at=1000, size=500, seed=2)
PATCH = Operation(Kind.PATCH, "file", at=100, size=50, seed=3)
PATCHED = DATA[:100] + PATCH.data() + DATA[150:]


@pytest.mark.parametrize(
    ("before", "doubt", "found", "is_right"),
    [
        ({"file": DATA}, None, {"file": DATA}, True),
        ({"file": DATA}, None, {"file": DATA[:-1]}, False),
        ({"file": DATA}, None, {"file": DATA[:500] + b"?" + DATA[501:]}, False),
        ({"file": DATA}, None, {}, False),
        ({}, None, {"file": DATA}, False),
        ({}, FILE, {}, True),
        ({}, FILE, {"file": DATA[:300]}, True),
        ({}, FILE, {"file": b"?" + DATA[1:]}, False),
        ({"other": b"1"}, FILE, {"file": DATA}, False),
        ({"file": DATA}, MORE, {"file": DATA}, True),
        ({"file": DATA}, MORE, {"file": DATA + MORE.data()[:7]}, True),
        ({"file": DATA}, MORE, {"file": DATA[:999]}, False),
        ({"file": DATA}, MORE, {"file": DATA + b"?"}, False),
        ({"file": DATA}, PATCH, {"file": PATCHED}, True),
        ({"file": DATA}, PATCH, {"file": PATCHED[:120] + DATA[120:]}, True),
        ({"file": DATA}, PATCH, {"file": DATA[:99] + b"?" + PATCHED[100:]}, False),
        ({"file": DATA}, PATCH, {"file": PATCHED[:-1]}, False),
        ({"file": DATA}, Operation(Kind.REPLACE, "file", size=9, seed=4), {"file": DATA, temporary("file"): b""}, True),
        ({"file": DATA}, Operation(Kind.REPLACE, "file", size=9, seed=4), {temporary("file"): b""}, False),
        ({"file": DATA}, Operation(Kind.RENAME, "file", "new"), {"new": DATA}, True),
        ({"file": DATA}, Operation(Kind.RENAME, "file", "new"), {}, False),
        ({"file": DATA}, Operation(Kind.RENAME, "file", "new"), {"file": DATA, "new": DATA}, False),
        ({"file": DATA}, Operation(Kind.UNLINK, "file"), {}, True),
        ({"d": None, "d/file": DATA}, Operation(Kind.RMDIR, "d"), {"d": None}, True),
        ({"d": None, "d/file": DATA}, Operation(Kind.RMDIR, "d"), {"d": None, "d/file": DATA[1:]}, False),
        ({"file": DATA}, Operation(Kind.READ, "file"), {}, False),
    ],
)
def test_what_was_promised_must_be_there_and_what_was_under_way_may(
    before: dict[str, Any], doubt: Operation | None, found: dict[str, Any], is_right: bool
) -> None:
    assert (Tree(before, doubt).wrong(found) == []) is is_right


@pytest.fixture
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain directory needs no fsync to be judged, and a busy disk takes long for hundreds."""
    monkeypatch.setattr(os, "fsync", lambda _fd: None)


def worker(directory: Path) -> Worker:
    def bring_back(*words: str) -> None:
        if words[0] == "undelete":
            raise OSError("a plain directory brings nothing back")

    return Worker("one", "1", directory, Gate(), bring_back, 0.0, Silence())


def worked(directory: Path, count: int) -> Worker:
    """So many steps on a plain directory."""
    one = worker(directory)
    one.directory.mkdir()
    one.gate.expects_death = True  # as undelete fails
    for _ in range(count):
        one._step()
    return one


@pytest.mark.usefixtures("_no_disk")
def test_a_worker_finds_what_it_left_and_a_byte_that_is_lost(tmp_path: Path) -> None:
    one = worked(tmp_path, 300)
    assert one.check() == []
    assert sum(one.done[kind] for kind in Kind if kind not in CHANGES_NOTHING) > 100
    path = next(path for path, content in one.tree.names.items() if content)
    with (one.directory / path).open("r+b") as file:
        first = file.read(1)[0]
        file.seek(0)
        file.write(bytes([first ^ 1]))
    (wrong,) = one.check()
    assert path in wrong
    assert "bytes are wrong, from 0 on" in wrong
    with pytest.raises(Broken, match=path):
        one._compare(one.directory / path, one.tree.names[path])


@pytest.mark.usefixtures("_no_disk")
def test_a_file_that_is_gone_is_missed_after_a_crash(tmp_path: Path) -> None:
    one = worked(tmp_path, 100)
    one.tree.begin(one.tree.choose(random.Random(3)))
    keep = contents(one.directory)
    one.settle()
    assert one.tree.doubt is None
    path = next(path for path, content in keep.items() if content is not None)
    one.tree.begin(Operation(Kind.LIST))
    (one.directory / path).unlink()
    with pytest.raises(Broken, match="not there"):
        one.settle()


def test_an_old_content_is_waited_for_only_while_and_just_after_the_coordinator_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, away = 100.0, contextlib.ExitStack()

    def pass_on(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= BACK_S:
            away.close()

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(time, "sleep", pass_on)
    silence = Silence()
    one, path = Worker("one", "1", tmp_path, Gate(), worker(tmp_path)._command, 0.0, silence), tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(Broken):
        one._await_seen(path, b"newer")
    assert now == pytest.approx(100 + SEEN_WITHIN_S, abs=0.2)
    away.enter_context(silence.lasting())
    with pytest.raises(Broken):
        one._await_seen(path, b"newer")
    assert now == pytest.approx(BACK_S + SEEN_WITHIN_S, abs=0.2)


@pytest.mark.usefixtures("_no_disk")
def test_an_error_that_no_fault_explains_ends_a_worker(tmp_path: Path) -> None:
    one = worked(tmp_path, 20)
    one.gate.expects_death = False
    shutil.rmtree(one.directory)
    with pytest.raises(Broken, match="No such file"):  # noqa: PT012 - some steps need no file
        for _ in range(20):
            one._step()


# ---- what grows ------------------------------------------------------------------------------------------------------


def life(part: str = "peer-1", pid: int = 1, *, step: float = 0.0, at: int = 60, count: int = 900) -> list[Sample]:
    """A process that warms up for four minutes and then takes `step` bytes more each second."""
    return [
        Sample(float(s), part, pid, int(at * MIB * min(1.0, 0.5 + s / 480) + step * s), 20, 5) for s in range(count)
    ]


WELL = life() + life("coordinator", 2) + life("mount", 3)
RESTS = (400.0, 600.0, 850.0)


def test_what_warms_up_and_stays_is_flat_and_a_leak_is_found() -> None:
    assert memory.wrong(WELL, RESTS, 30) == []
    (wrong,) = memory.wrong(WELL + life("second", 4, step=MIB / 40), RESTS, 30)
    assert "second (4)" in wrong
    assert "resident memory at rest grew" in wrong


def test_what_goes_up_with_the_load_and_down_with_it_is_no_leak_unless_it_stays() -> None:
    def loaded(stays: float) -> list[Sample]:
        def more(at_s: float) -> int:
            rests = any(end_s - memory.REST_S / 2 <= at_s <= end_s for end_s in RESTS)
            return int(60 * MIB * (stays if rests else 1.0)) if at_s > 500 else 0

        return [replace(one, resident=one.resident + more(one.at_s)) for one in life("second", 4)]

    assert memory.wrong(WELL + loaded(0.1), RESTS, 30) == []
    (wrong,) = memory.wrong(WELL + loaded(0.3), RESTS, 30)
    assert "second (4)" in wrong


@pytest.mark.parametrize(("more", "is_wrong"), [(0, False), (12, True)])
def test_what_is_taken_and_given_back_in_turn_counts_by_what_is_kept(more: int, is_wrong: bool) -> None:
    """At whatever second of it a rest ends."""

    def swung(at_s: float) -> int:
        return int(18 * MIB * (at_s % 30.0) / 30.0) + (more * MIB if at_s > 700 else 0)

    swings = [replace(one, resident=one.resident + swung(one.at_s)) for one in life("second", 4)]
    for late_s in range(820, 851):
        assert bool(memory.wrong(WELL + swings, (400.0, 600.0, float(late_s)), 30)) is is_wrong


def test_rests_too_near_each_other_tell_nothing() -> None:
    assert memory.growth(life(), (600.0, 850.0)) is None
    assert memory.growth(life(), ()) is None


def test_a_last_rest_waits_until_it_tells_something_however_late_the_one_before_was() -> None:
    due = memory.is_rest_due
    assert due([0.68, 0.77, 0.95], [], progress=0.68, at_s=1000.0)
    assert not due([0.77, 0.95], [1100.0], progress=0.76, at_s=1140.0)
    assert due([0.77, 0.95], [1100.0], progress=0.77, at_s=1150.0)
    early_s = 1300.0 + memory.APART_S - memory.REST_S
    assert not due([0.95], [1100.0, 1300.0], progress=0.94, at_s=early_s)
    assert not due([0.95], [1100.0, 1300.0], progress=1.1, at_s=early_s - 1)
    assert due([0.95], [1100.0, 1300.0], progress=0.95, at_s=early_s)
    assert not due([], [1100.0, 1300.0, 1600.0], progress=1.0, at_s=1700.0)
    ends_s = early_s + memory.REST_S
    assert memory.growth(life(count=2000), (1300.0, ends_s)) is not None


def test_a_process_that_was_hardly_seen_under_load_tells_nothing() -> None:
    rests = [300.0 + memory.REST_S * number for number in range(1, 9)]
    assert memory.growth([one for one in life() if one.at_s < 300 or one.at_s >= 302], rests) is None
    assert memory.growth(life(count=920), rests) is not None


def test_descriptors_and_threads_that_are_never_closed_are_found() -> None:
    leaky = [replace(one, descriptors=20 + int(one.at_s) // 15, threads=5 + int(one.at_s) // 30) for one in life()]
    assert [wrong.partition(": ")[2].split()[0] for wrong in memory.wrong(WELL + leaky, RESTS, 30)] == [
        "descriptors",
        "threads",
    ]


def test_connections_may_come_and_go() -> None:
    busy = [replace(one, descriptors=20 + 30 * (one.at_s > 500) * (int(one.at_s) % 40 > 10)) for one in life()]
    assert memory.wrong(WELL + busy, RESTS, 30) == []


def test_a_ceiling_holds_at_every_moment() -> None:
    (wrong,) = memory.wrong([*WELL, Sample(1.0, "peer-2", 9, 151 * MIB, 20, 5)], RESTS, 30)
    assert "peer-2 (9) took 151 MiB" in wrong


def test_a_long_run_that_shows_nothing_of_a_role_does_not_pass() -> None:
    short = life() + life("coordinator", 2) + life("mount", 3, step=MIB / 40, count=500)
    (wrong,) = memory.wrong(short, RESTS, 30)
    assert "no mount lived long enough" in wrong
    assert memory.wrong(short, RESTS, 5) == []


# ---- what is warned of -----------------------------------------------------------------------------------------------

LOG = """2027-01-15T08:00:00.123Z INFO p2pfs.net.server: all is well
2027-01-15T08:00:01.000Z WARNING p2pfs_peerd.heartbeat: the coordinator does not take this peer's heartbeat: no
2027-01-15T08:00:02.000Z ERROR p2pfs.net.server: a connection failed unexpectedly
  Traceback (most recent call last):
  ValueError: no
Fatal Python error: it is over
"""
AT_S = 1_800_000_001.0  # of the heartbeat's


def test_a_warning_needs_a_fault_of_its_kind_at_its_time() -> None:
    heartbeat, failure, last_word = warnings.records("peer-1", LOG)
    assert heartbeat.at_s == AT_S
    killed = Past(Fault.KILL, "coordinator", AT_S - 1, AT_S)
    assert warnings.unclaimed([heartbeat], [killed]) == []
    assert warnings.unclaimed([heartbeat, heartbeat], []) == [f"peer-1: {heartbeat.text} (2 times)"]
    assert warnings.unclaimed([heartbeat], [replace(killed, part="peer-2")])
    assert warnings.unclaimed([heartbeat], [replace(killed, fault=Fault.JOIN)])
    assert warnings.unclaimed([heartbeat], [replace(killed, begun_s=AT_S - 100, ended_s=AT_S - 99)])
    assert warnings.unclaimed([heartbeat], [replace(killed, begun_s=AT_S + 1, ended_s=AT_S + 2)])
    assert warnings.unclaimed([replace(heartbeat, part="mount")], [killed])
    assert len(warnings.unclaimed([failure, last_word], [killed])) == 2


def test_a_report_shows_what_was_done_and_found() -> None:
    said = report.text(
        title="Soak", problems=["a byte"], history=[Past(Fault.KILL, "peer-1", 0, 1)], steps={"put": 3},
        figures={"seed": 7}, samples=WELL, rests=RESTS,
    )  # fmt: skip
    for part in (
        "**FAILED**",
        "* a byte",
        "| fault: kill | 1 |",
        "| files: put | 3 |",
        "| seed | 7 |",
        "| peer-1 | 1 |",
    ):
        assert part in said
    assert report.picture(WELL).count("<polyline") == 3
    assert report.picture([]).endswith("</svg>\n")
    assert report.sparkline([1, 2, 4], 4) == "▃▅█"


def test_a_text_that_no_claim_knows_is_never_explained() -> None:
    every = [Past(fault, "peer-1", 0, 10) for fault in Fault] + [Past(fault, "coordinator", 0, 10) for fault in Fault]
    assert warnings.unclaimed([Warned("peer-1", 5.0, "ERROR p2pfs: a chunk is damaged")], every)
