"""Kinds of resources, how rules are written, and what is offered when."""

import json
import os
import re
import shutil
import subprocess
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from coordination import pool
from msgspec.structs import replace
from peer_processes import lone_peer
from trio.testing import MockClock

from p2pfs.cli import main
from p2pfs.errors import Invalid, Misuse
from p2pfs.net.pace import Pace
from p2pfs.runtime import config
from p2pfs.runtime.clocks import SimulatedClock
from p2pfs.runtime.offers import registry, units
from p2pfs.runtime.offers.book import OfferBook, parse_all
from p2pfs.runtime.offers.kinds import Kind, Machine
from p2pfs.runtime.offers.schedule import parse_scheduled
from p2pfs.types import GIB, MIB

pytestmark = pytest.mark.l0

DOCS = Path(__file__).parents[2] / "docs"
MBIT = 125_000


def at(text: str) -> datetime:
    """ "mon 08:30": in a week of 2027 that begins with a Monday."""
    day, clock = text.split()
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    return datetime.fromisoformat(f"2027-03-{1 + days.index(day):02} {clock}")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("20Mbit", {"mon 00:00": 20, "sun 23:59": 20}),
        ("none", {"mon 12:00": None}),
        ("20Mbit@08:00-18:00", {"mon 07:59": None, "mon 08:00": 20, "sun 17:59": 20, "mon 18:00": None}),
        ("20Mbit@08:00-18:00,100Mbit", {"mon 07:59": 100, "mon 08:00": 20, "mon 18:00": 100}),
        ("5Mbit@mon-fri/08:00-18:00,50Mbit", {"fri 09:00": 5, "sat 09:00": 50, "fri 18:00": 50}),
        ("5Mbit@sat-mon,50Mbit", {"fri 12:00": 50, "sat 00:00": 5, "sun 12:00": 5, "mon 23:59": 5, "tue 00:00": 50}),
        ("5Mbit@wed,50Mbit", {"tue 23:59": 50, "wed 00:00": 5, "wed 23:59": 5, "thu 00:00": 50}),
        ("none@22:00-06:00,5Mbit", {"mon 21:59": 5, "mon 22:00": None, "tue 05:59": None, "tue 06:00": 5}),
        # A night belongs to the day on which it begins.
        (
            "9Mbit@fri/22:00-06:00,1Mbit",
            {"fri 05:00": 1, "fri 22:00": 9, "sat 05:59": 9, "sat 06:00": 1, "sat 22:00": 1},
        ),
        ("9Mbit@sun/23:00-01:00,1Mbit", {"mon 00:30": 9, "mon 01:00": 1, "sun 00:30": 1}),
        ("9Mbit@18:00-24:00,1Mbit", {"mon 23:59": 9, "tue 00:00": 1}),
        ("1Mbit@09:00-10:00, 2Mbit@08:00-12:00 ,3Mbit", {"mon 09:30": 1, "mon 10:30": 2, "mon 13:00": 3}),
    ],
)
def test_a_rule_says_how_much_when(rule: str, expected: dict[str, int | None]) -> None:
    parsed = registry.named("upload").rule(rule)
    assert {moment: parsed.at(at(moment)) for moment in expected} == {
        moment: rate if rate is None else rate * MBIT for moment, rate in expected.items()
    }
    again = registry.named("upload").rule(str(parsed))
    assert [again.at(at(moment)) for moment in expected] == [parsed.at(at(moment)) for moment in expected]


@pytest.mark.parametrize(
    "rule",
    [
        "", "20", "20Mb", "20MB", "fast", "-5Mbit", "0Mbit", "100kbit", "0/s", "1e9Mbit", "20Mbit,", ",20Mbit",
        "20Mbit@", "20Mbit@08:00", "20Mbit@8:00-18:00", "20Mbit@08:00-25:00", "20Mbit@08:60-09:00",
        "20Mbit@24:00-06:00",
        "20Mbit@08:00-08:00", "20Mbit@monday", "20Mbit@mon/", "20Mbit@/08:00-18:00", "20Mbit@mon08:00-18:00",
        "20Mbit@08:00-18:00@mon", "20Mbit,5Mbit@08:00-18:00", "20Mbit@mon fri", ",".join(["20Mbit@mon"] * 17),
        "20Mbit\t,5Mbit", "20Mbit\x1b", "2" * 600 + "kbit",
    ],
)  # fmt: skip
def test_nonsense_is_refused(rule: str) -> None:
    with pytest.raises(Invalid, match="upload: "):
        registry.named("upload").rule(rule)


@pytest.mark.parametrize("rate", ["1" * 400 + "Mbit", "1" * 5000 + "Mbit", "1" * 400 + ".5M/s"])
def test_digits_without_end_are_no_rate(rate: str) -> None:
    with pytest.raises(Invalid):
        units.parse_rate(rate)


def test_rates_are_written_in_bits_or_bytes() -> None:
    assert [units.parse_rate(text) for text in ("20Mbit", "2.5mbit/s", "1Gbit", "512kbit")] == [
        20 * MBIT, 312_500, 125_000_000, 64_000,
    ]  # fmt: skip
    assert [units.parse_rate(text) for text in ("2M/s", "2MiB/s", "none")] == [2 * MIB, 2 * MIB, None]
    shown = [units.format_rate(rate) for rate in (0, 40_000, 312_500, 20 * MBIT, 124_999_999, 125_000_000)]
    assert shown == ["0 kbit/s", "320 kbit/s", "2.5 Mbit/s", "20 Mbit/s", "1 Gbit/s", "1 Gbit/s"]
    assert (units.shown(2 * GIB, "bytes"), units.shown(None, "bytes/s"), units.shown(3, "count")) == (
        "2 GiB", "no limit", "3",
    )  # fmt: skip


def test_storage_is_a_size_and_compute_is_switched_off() -> None:
    storage = registry.named("storage")
    assert storage.rule("200G").at(at("mon 08:00")) == 200 * GIB
    with pytest.raises(Invalid, match="more than any machine has"):
        storage.rule("7E")
    assert storage.rule("auto").at(at("mon 08:00")) is None
    compute = registry.named("compute")
    assert not compute.is_on
    assert compute.rule("off").at(at("mon 08:00")) == 0
    with pytest.raises(Invalid, match="switched off"):
        compute.rule("4")
    with pytest.raises(Invalid, match="no kind of resource: there are storage, upload, download, compute"):
        parse_all({"memory": "4G"})


# ---- rules at work --------------------------------------------------------------------------------------------------


class Disk:
    """Storage of a peer."""

    def __init__(self) -> None:
        self.amounts: list[int | None] = []

    def limit(self, amount: int | None) -> None:
        self.amounts.append(amount)

    def offered(self) -> int | None:
        return self.amounts[-1]

    def used(self) -> int:
        return 5


def book(texts: dict[str, str]) -> tuple[OfferBook, Pace, Disk]:
    clock = SimulatedClock(datetime(2027, 3, 1, 7, 59, 0, tzinfo=UTC).timestamp())
    pace, disk = Pace.unlimited(clock), Disk()
    machine = Machine(disk, pace.up, pace.down, clock.monotonic)
    return OfferBook(texts, machine, clock, lambda time_s: datetime.fromtimestamp(time_s, UTC)), pace, disk


async def test_a_rule_switches_at_its_time_without_a_restart(autojump_clock: MockClock) -> None:
    offers, pace, disk = book({"upload": "8Mbit@08:00-18:00,80Mbit", "storage": "2G"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(offers.run)
        assert pace.up.rate == 80 * MBIT
        await trio.sleep(59.5)
        assert pace.up.rate == 80 * MBIT
        await trio.sleep(2)
        assert pace.up.rate == 8 * MBIT
        await trio.sleep(10 * 3600 - 5)
        assert pace.up.rate == 8 * MBIT
        await trio.sleep(5)
        assert (pace.up.rate, pace.down.rate) == (80 * MBIT, None)
        nursery.cancel_scope.cancel()
    assert disk.amounts == [2 * GIB]  # what does not change is not said again


async def test_offers_change_while_they_are_kept(autojump_clock: MockClock) -> None:
    offers, pace, disk = book({})
    assert [(one.kind, one.offered, one.used, one.rule) for one in offers.told()] == [
        ("storage", None, 5, "auto"),
        ("upload", None, 0, "none"),
        ("download", None, 0, "none"),
    ]
    offers.change(parse_all({"upload": "8Mbit", "storage": "1G"}))
    assert pace.up.rate == 8 * MBIT
    assert disk.amounts == [None, GIB]
    offers.change(parse_all({"upload": "none"}))
    assert (pace.up.rate, disk.amounts) == (None, [None, GIB])


async def test_used_is_what_moved_lately(autojump_clock: MockClock) -> None:
    offers, pace, _ = book({})

    def used() -> int:
        return next(one.used for one in offers.told() if one.kind == "download")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(offers.run)
        for _ in range(30):
            pace.down.charge(1000)
            await trio.sleep(0.5)
        assert used() == pytest.approx(2000, rel=0.1)
        await trio.sleep(7)
        assert used() == 0
        nursery.cancel_scope.cancel()


# ---- the configuration ----------------------------------------------------------------------------------------------


def test_offers_are_settings(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('upload = "20Mbit@08:00-18:00"\ncapacity = "2G"\n')
    settings = config.load(tmp_path, {"download": "none"})
    assert settings.offers == {"upload": "20Mbit@08:00-18:00", "download": "none"}
    assert settings.capacity == 2 * GIB
    with pytest.raises(Invalid, match="setting upload: “fast” is no rate"):
        config.load(tmp_path, {"upload": "fast"})
    with pytest.raises(Invalid, match="upload needs one value, such as none"):
        config.parse_setting("upload", ["20Mbit"])
    with pytest.raises(Invalid, match="did you mean upload"):
        config.parse_setting("uplod", "20Mbit")


# ---- one kind more --------------------------------------------------------------------------------------------------


def test_the_kinds_are_documented() -> None:
    text = (DOCS / "resources.md").read_text(encoding="utf-8")
    table = text.split("<!-- offers -->")[1].split("<!-- /offers -->")[0]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|\n ").split("|")] for line in table.strip().split("\n")[2:]
    ]
    assert rows == [[kind.name, kind.key, kind.default, kind.about] for kind in registry.kinds()]


@pytest.fixture
def gpu() -> Iterator[Kind]:
    """The kind that docs/resources.md adds, exactly as it stands there."""
    text = (DOCS / "resources.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example: \S+ -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found is not None
    module = types.ModuleType("gpu")
    exec(found[1], module.__dict__)
    kind: Kind = module.KIND
    registry.register(kind)
    yield kind
    registry.unregister(kind.name)


async def test_a_kind_more_is_one_module_and_one_registration(gpu: Kind, tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="called gpu already"):
        registry.register(gpu)
    (tmp_path / "config.toml").write_text('gpu = "2"\n')
    offers, _, _ = book(dict(config.load(tmp_path).offers))
    told = offers.told()[-1]
    assert (told.kind, told.unit, told.offered, told.used, told.rule) == ("gpu", "count", 2, 0, "2")
    async with pool(tmp_path / "pool") as p:
        one, two = await p.peers(2)
        await p.beat(one.node, offers=[told])
        await p.beat(two.node, offers=[replace(told, offered=3, used=1)])
        report = await p.services.status.report(p.identity())
        pooled = report.offers[-1]
        assert (pooled.kind, pooled.about, pooled.offered, pooled.used, pooled.free, pooled.peers) == (
            "gpu", "graphics cards", 5, 1, 4, 2,
        )  # fmt: skip


def test_a_kind_more_is_shared_by_the_command(gpu: Kind, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = lone_peer(tmp_path)
    assert main.run(["share", "gpu=4", "--home", str(home)]) == 0
    capsys.readouterr()
    assert main.run(["share", "--json", "--home", str(home)]) == 0
    shared = json.loads(capsys.readouterr().out)["offers"][-1]
    assert (shared["kind"], shared["rule"], shared["about"]) == ("gpu", "4", "graphics cards")
    assert main.run(["share", "gpu=many", "--home", str(home)]) == 2
    assert "“many” is no number of cards" in capsys.readouterr().err


def test_a_kind_more_is_what_the_page_says_and_nothing_else(tmp_path: Path) -> None:
    """A copy of the program, the module of the page, and the lines of its registration."""
    text = (DOCS / "resources.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- example: (\S+) -->\n```python\n(.*?)```", text, re.DOTALL)
    lines = re.search(r"<!-- registration -->\n```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    assert lines is not None
    shutil.copytree(DOCS.parent / "p2pfs", tmp_path / "p2pfs", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / example[1]).write_text(example[2], encoding="utf-8")
    imported, last, added = lines[1].splitlines()
    known = tmp_path / "p2pfs/runtime/offers/registry.py"
    code = known.read_text(encoding="utf-8")
    code, imports = re.subn(r"^from p2pfs\.runtime\.offers import .*$", imported, code, flags=re.MULTILINE)
    code, entries = re.subn(rf"^{re.escape(last)}$", f"{last}\n{added}", code, flags=re.MULTILINE)
    assert (imports, entries) == (1, 1)
    known.write_text(code, encoding="utf-8")
    home = lone_peer(tmp_path)
    for words in (["gpu=2"], ["--json"]):
        done = subprocess.run(
            [sys.executable, "-m", "p2pfs.cli.main", "share", *words, "--home", home],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, check=True,
        )  # fmt: skip
    offers = {offer["kind"]: offer["rule"] for offer in json.loads(done.stdout)["offers"]}
    assert offers["gpu"] == "2"


def test_a_rule_of_parts_takes_any_amount() -> None:
    rule = parse_scheduled("3@sat-sun,1", int)
    assert [rule.at(at(moment)) for moment in ("fri 12:00", "sat 12:00")] == [1, 3]
