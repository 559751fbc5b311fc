"""`p2pfs simulate`: units, refusals, what it takes from the coordinator, and the shape of its answers."""

import json
from pathlib import Path

import pytest

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.trying.simulate import parse_count, parse_rate, parse_share, parse_time
from p2pfs.cli.trying.simulate_show import _kept
from p2pfs.errors import Invalid

pytestmark = pytest.mark.l0

POOL = ("--peers", "8", "--leave", "48/d", "--return", "50%", "--return-after", "15min", "--chunks", "10k")
QUICK = ("--sample", "100", "--jobs", "1")


def ran(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    code = main.run(["simulate", *map(str, words)])
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.mark.parametrize(
    ("text", "per_day"), [("0.5/d", 0.5), ("1/h", 24), ("2d", 0.5), ("12h", 2), (" 3 / w ", 3 / 7), ("36h", 2 / 3)]
)
def test_rates_are_how_often_or_how_long(text: str, per_day: float) -> None:
    assert parse_rate("--leave", text) == pytest.approx(per_day)


@pytest.mark.parametrize("text", ["100", "0.5", "0/d", "-1/d", "1/", "1/5", "1/fortnight", "", "d", "often"])
def test_rates_without_a_unit_or_a_meaning_are_refused(text: str) -> None:
    with pytest.raises(Invalid, match="--leave"):
        parse_rate("--leave", text)


def test_shares_counts_and_times() -> None:
    assert [parse_share("--return", text) for text in ("0.9", "90%", "90 %", "1", "0")] == [0.9, 0.9, 0.9, 1, 0]
    assert [parse_count("--chunks", text) for text in ("7", "500k", "10M", "1.5M")] == [7, 500_000, 10**7, 1_500_000]
    assert parse_time("--over", "1y") == 365 * 86400
    for parse, text in ((parse_share, "1.1"), (parse_share, "most"), (parse_count, "10G"), (parse_count, "-1")):
        with pytest.raises(Invalid, match="--x"):
            parse("--x", text)
    for text in ("100", "0s", "soon"):
        with pytest.raises(Invalid):
            parse_time("--over", text)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((*POOL, "--leave", "100"), "such as 100/d"),
        ((*POOL, "--repair-delay", "100"), "write the unit too"),
        ((*POOL, "--copies", "9"), "a pool of 8 peers holds at most 8 copies"),
        ((*POOL, "--target", "1"), "nothing is kept for certain"),
        ((*POOL, "--return", "1"), "lose nothing"),
        (("--peers", "8", "--leave", "2d"), "--return is missing"),
        (("--peers", "8", "--return", "0.9"), "need --leave"),
        (("--plot", "x.svg"), "give --paper as well"),
        (("--paper", "--plot", "x.pdf"), "must end in .svg or .png"),
    ],
)
def test_mistakes_are_told_in_a_sentence(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str) -> None:
    code, out, err = ran(capsys, *words)
    assert (code, out) == (exitcodes.USAGE, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_the_answer_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(
        capsys, *POOL, *QUICK, "--target", "0.5", "--over", "1h", "--repair-delay", "10min", "--copies", "2"
    )
    assert code == exitcodes.OK
    assert "80.0 % are up" in out
    assert "Set replicas = 2 and repair_delay = 10min" in out


def test_the_answer_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ran(capsys, *POOL, *QUICK, "--json", "--copies", "1", "--repair-delay", "1min", "--over", "1d")
    told = json.loads(out)
    assert code == exitcodes.HEALTH_ERROR
    assert told["answer"] is None
    assert (told["peers"], told["chunks"], told["leaves_per_day"], told["target"]) == (8, 10_000, 48, 0.999999)
    (choice,) = told["choices"]
    assert choice.keys() == {
        "copies", "repair_delay_s", "lives", "hit", "lost", "unreadable", "copied_bytes", "load", "target",
    }  # fmt: skip
    assert choice["lost"]["low"] < choice["lost"]["estimate"] < choice["lost"]["high"] <= 1
    assert choice["target"] == "missed"


def test_the_paper_for_programs_and_drawn(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    picture = tmp_path / "sets.svg"
    words = ("--paper", "--runs", "2", "--periods", "1", "--jobs", "1", "--plot", picture)
    code, out, _ = ran(capsys, *words, "--json")
    told = json.loads(out)
    assert code == exitcodes.OK
    assert [(one["name"], len(one["points"])) for one in told["sets"]] == [
        ("set 1", 100),
        ("set 2", 100),
        ("set 3", 36),
    ]
    assert told["sets"][2]["points"][-1]["nodes"] == 2976
    assert told["sets"][1]["points"][99] == {"nodes": 100, "best": 41, "worst": 41, "mean": 41, "expected": 41}
    assert len(told["repair"]) == 3 * 3 * 4
    assert told["repair"][0]["repair_delay_s"] is None
    assert picture.read_text().startswith("<svg")


def test_without_a_pool_everything_must_be_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = ran(capsys, "--home", tmp_path / "none")
    assert code == exitcodes.NO_HOME
    assert "say --peers, --leave, --return, --return-after and --chunks" in err


def test_a_chance_has_as_many_digits_as_it_needs() -> None:
    assert [_kept(lost) for lost in (0.0, 0.5, 0.012, 1.4e-4, 8.4e-6)] == ["1", "0.5", "0.988", "0.99986", "0.9999916"]
