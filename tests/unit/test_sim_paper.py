"""The paper's experiment: the simulation beside the exact distributions, and both beside what was published."""

import math
from itertools import combinations
from pathlib import Path
from random import Random
from xml.etree import ElementTree

import pytest
from PIL import Image

from p2pfs import exitcodes
from p2pfs.errors import Invalid, UserError
from p2pfs.sim import paper, plot, survival
from p2pfs.sim.churn import SETS, PaperSet

pytestmark = pytest.mark.l0

TINY = PaperSet("tiny", connected=6, persistent=2, is_drawn_anew=False, leavers=4)


def test_distinct_leavers_are_distributed_as_if_counted_one_by_one() -> None:
    """Whoever holds the data among six, of which the first four leave."""
    counts = [0] * 4
    for holders in combinations(range(6), 3):
        counts[len(set(holders) - set(range(4)))] += 1
    assert paper.distribution(TINY, 3) == pytest.approx([count / 20 for count in counts])


def test_slots_drawn_anew_are_distributed_as_if_counted_one_by_one() -> None:
    kind = PaperSet("tiny", connected=4, persistent=0, is_drawn_anew=True, leavers=3)
    counts = [0] * 3
    for draw in range(4**3):
        hit = {draw % 4, draw // 4 % 4, draw // 16}
        counts[len({0, 1} - hit)] += 1
    assert paper.distribution(kind, 2) == pytest.approx([count / 64 for count in counts])


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.name)
@pytest.mark.parametrize("nodes", [1, 14, 86])
def test_the_exact_distribution_is_one_and_has_the_exact_mean(kind: PaperSet, nodes: int) -> None:
    chances = paper.distribution(kind, nodes)
    assert sum(chances) == pytest.approx(1)
    assert sum(left * chance for left, chance in enumerate(chances)) == pytest.approx(nodes * kind.staying)


@pytest.mark.parametrize("kind", SETS, ids=lambda kind: kind.name)
def test_the_simulation_follows_the_exact_distribution(kind: PaperSet) -> None:
    """Pearson's chi-squared of many runs over what is likely enough, below its 99.9 % quantile."""
    nodes, runs, random = 14, 1000 if kind.connected == 100 else 100, Random(5)
    _, orders = next(paper._placed(kind, runs, random))
    left = [paper._left(kind, order[:nodes], random) for order in orders]
    cells = [(left.count(at), runs * chance) for at, chance in enumerate(paper.distribution(kind, nodes))]
    likely = [(seen, expected) for seen, expected in cells if expected >= 5]
    assert sum(expected for _, expected in likely) > 0.95 * runs
    chi_squared = sum((seen - expected) ** 2 / expected for seen, expected in likely)
    free = len(likely)
    assert chi_squared < free * (1 - 2 / (9 * free) + 3.09 * math.sqrt(2 / (9 * free))) ** 3  # Wilson and Hilferty


def test_the_persistent_never_leave_and_the_others_are_as_many_as_were_said() -> None:
    random = Random(1)
    assert sorted(SETS[1].departures(random)) == list(range(59))
    assert max(SETS[2].departures(random)) < 4000 - 41
    drawn = [len(set(SETS[0].departures(random))) for _ in range(200)]
    assert 35 < min(drawn) < max(drawn) < 55


def test_the_published_points_are_judged_exactly() -> None:
    first, second, third = SETS
    assert paper.chance_above(first, 14, 0.25, 100) == pytest.approx(0.462, abs=1e-3)
    assert paper.chance_above(second, 25, 0.25, 100) == pytest.approx(0.023, abs=1e-3)
    assert paper.chance_above(third, 86, 0.50, 100) == pytest.approx(1)
    assert [paper.guaranteed(kind) for kind in SETS] == [60, 60, 60]
    assert paper.chance_above(first, 60, 0.0, 100) > 0.999
    assert paper.distribution(first, 60)[0] == pytest.approx(0)


def test_ours_beside_the_published() -> None:
    points = [paper.Point(nodes, nodes, worst, 0.0, 0.0) for nodes, worst in [(1, 0), (25, 6), (45, 12), (100, 41)]]
    found = paper.compare(SETS[1], points, 100)
    assert (found.worst_share, found.ours_from, found.likely_from) == (0.24, 45, 45)
    assert (found.kept_from, found.guaranteed_from) == (25, 60)
    told = list(paper.sentences(SETS[1], found, 100))
    assert "24.0 % in the worst of 100 runs, 1.0 points below" in told[0]
    assert "a chance of 2.3 %" in told[1]


def test_a_seed_gives_the_same_points_again() -> None:
    first, again, other = (paper.run(SETS[1], runs=3, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def lives(kind: PaperSet, copies: int, delay_s: float, runs: int, periods: int) -> survival.Curve:
    task = survival.Task(kind, copies, delay_s, 0, runs, periods, 1)
    (curve,) = survival.curves([(task, survival.run(task))])
    return curve


def test_without_repair_only_persistent_nodes_keep_the_data() -> None:
    curve = lives(SETS[1], 2, math.inf, 150, 1)
    exact = 1 - math.comb(59, 2) / math.comb(100, 2)
    (_, _, low, high) = curve.marks[-1]
    assert low < exact < high
    assert curve.copied_per_period == 0


def test_repair_keeps_what_would_vanish() -> None:
    without, with_repair = lives(SETS[0], 3, math.inf, 20, 12), lives(SETS[0], 3, 60.0, 20, 12)
    assert without.marks[-1][1] < 5
    assert with_repair.marks[-1][1] > 17
    assert with_repair.copied_per_period > 2  # three copies, of which 45 % go each hour, and some that are moved


def shapes() -> list[plot.Shape]:
    kind = SETS[1]
    points = paper.run(kind, runs=2, seed=0)
    curves = [lives(kind, copies, delay_s, 2, 1) for copies in (2, 3) for delay_s in (math.inf, 60.0)]
    return plot.paper([(kind, points, paper.compare(kind, points, 2))], curves, 2)


def test_a_plot_is_an_svg_with_every_curve(tmp_path: Path) -> None:
    plot.write(tmp_path / "sets.svg", shapes())
    root = ElementTree.parse(tmp_path / "sets.svg").getroot()
    words = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for expected in ("set 2: 100 connected, 59 leave an hour", "worst of 2", "no repair", "1min", "3 copies"):
        assert expected in words
    for line in root.iter("{http://www.w3.org/2000/svg}polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= plot.WIDTH
            assert 0 <= y <= plot.HEIGHT


def test_a_plot_is_a_png_too(tmp_path: Path) -> None:
    plot.write(tmp_path / "sets.png", shapes())
    with Image.open(tmp_path / "sets.png") as picture:
        assert picture.size == (2 * plot.WIDTH, 2 * plot.HEIGHT)
        assert len(picture.getcolors(1 << 20)) > 5


def test_what_cannot_be_drawn_is_said_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot.require_writable(tmp_path / "sets.SVG")
    with pytest.raises(Invalid, match=r"must end in \.svg or \.png"):
        plot.require_writable(tmp_path / "sets.pdf")
    with pytest.raises(UserError, match="there is no directory") as raised:
        plot.require_writable(tmp_path / "no" / "sets.svg")
    assert raised.value.exit_code == exitcodes.NOT_FOUND
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    monkeypatch.setitem(__import__("sys").modules, "PIL.ImageDraw", None)
    with pytest.raises(UserError, match="needs Pillow"):
        plot.require_writable(tmp_path / "sets.png")
