"""`p2pfs simulate`: how many copies a pool needs, and the second paper's experiment.

The simulations are `p2pfs.sim`. Here: what is asked, in units that people write, and where it is not said, what the
coordinator has measured.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.config import Settings
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import given_duration
from p2pfs.types import GONE_STATES

if TYPE_CHECKING:
    from p2pfs.sim.churn import Rates
    from p2pfs.sim.search import Question

DELAYS: Final = ("1min", "10min", "1h", "6h", "1d")
MOST_COPIES: Final = 8
"""So many are tried at most, unless it is said otherwise."""
ENOUGH_LEAVES: Final = 5
"""So often peers must have left for the measured rate to be used."""
_COUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kM]?)", re.ASCII)
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*([a-z]+)", re.ASCII)
_DAY_S: Final = 86400.0


@click.command("simulate")
@click.option("--paper", is_flag=True, help="Repeat the experiment of the second paper instead.")
@click.option("--runs", default=100, show_default=True, type=click.IntRange(2), help="Of each point of the paper.")
@click.option(
    "--periods", default=24, show_default=True, type=click.IntRange(1, 1000), help="Hours with repair, of the paper."
)
@click.option("--plot", metavar="FILE", type=click.Path(path_type=Path), help="Draw the paper's sets: .svg or .png.")
@click.option("--peers", type=click.IntRange(2), help="How many the pool has. [default: as measured]")
@click.option("--leave", metavar="RATE", help="How often a peer falls silent, 0.5/d, or how long it stays, 2d.")
@click.option("--return", "returning", metavar="SHARE", help="Of those that fall silent, 0.9 or 90%; others never.")
@click.option("--return-after", metavar="TIME", help="How long those are silent on average.")
@click.option("--target", default="0.999999", show_default=True, metavar="SHARE", help="Of chunks kept.")
@click.option("--over", default="1y", show_default=True, metavar="TIME", help="How long they are to be kept.")
@click.option("--chunks", metavar="COUNT", help="How many the pool holds, such as 10M. [default: as measured]")
@click.option("--copies", multiple=True, type=click.IntRange(1, 16), help="Try only so many; may be repeated.")
@click.option("--repair-delay", "delays", multiple=True, metavar="TIME", help="Try only this; may be repeated.")
@click.option("--sample", default="100k", show_default=True, metavar="COUNT", help="Chunks followed for the answer.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same figures.")
@click.option("--jobs", type=click.IntRange(1), help="Processes that share the work. [default: one for each processor]")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@home_option
@json_option
def command(paper: bool, plot: Path | None, as_json: bool, jobs: int | None, quiet: bool, **asked: Any) -> int:  # noqa: ANN401 - options
    """Say how many copies and which repair delay a pool needs, by simulating how its peers come and go.

    Placement and repair decisions are the pool's own; time, peers and copying are simulated. How peers come and go is
    taken from what this home's coordinator measured (status --json, churn), unless it is said here. With --paper: how
    many of N nodes still hold some data after an hour, and how long it stays with repair.

    Times and rates need their unit. Exit status: 0 there is an answer, 21 none of what was tried reaches the target.

    \b
    Examples:
      p2pfs simulate                                     the pool of this home
      p2pfs simulate --peers 30 --leave 0.5/d --return 0.9 --return-after 8h --chunks 1M
      p2pfs simulate --peers 10000 --leave 2d --return 95% --return-after 6h --chunks 10M --target 0.99999
      p2pfs simulate --paper --plot sets.svg
    """
    from p2pfs.cli.trying import simulate_show as shown
    from p2pfs.sim import parallel

    if paper:
        if plot is not None:
            from p2pfs.sim.plot import require_writable

            require_writable(plot)
        with parallel.workers(jobs) as workers, shown.progress(quiet=quiet) as tell:
            found = shown.run_paper(workers, tell, runs=asked["runs"], periods=asked["periods"], seed=asked["seed"])
        shown.show_paper(found, plot, as_json=as_json)
        return exitcodes.OK
    if plot is not None:
        raise Invalid("--plot draws the paper's sets: give --paper as well")
    question = _question(**asked)
    from p2pfs.sim.search import search

    with parallel.workers(jobs) as workers, shown.progress(quiet=quiet) as tell:
        findings = search(question, workers, shown.telling(tell))
    shown.show_findings(question, findings, as_json=as_json)
    return exitcodes.OK if findings.answer is not None else exitcodes.HEALTH_ERROR


def _question(
    home: NodeHome,
    peers: int | None,
    leave: str | None,
    returning: str | None,
    return_after: str | None,
    chunks: str | None,
    target: str,
    over: str,
    copies: tuple[int, ...],
    delays: tuple[str, ...],
    sample: str,
    seed: int,
    **_paper: object,
) -> "Question":
    from p2pfs.sim.churn import Rates
    from p2pfs.sim.durability import Pool
    from p2pfs.sim.search import Question

    rates, kept = None, parse_share("--target", target)
    if not 0 < kept < 1:
        raise Invalid(f"--target {target}: nothing is kept for certain; write a share below 1, such as 0.999999")
    if leave is not None:
        rates = Rates(
            parse_rate("--leave", leave),
            parse_share("--return", _needed("--return", returning, "the share that comes back, such as 0.9")),
            parse_time("--return-after", _needed("--return-after", return_after, "how long they are away, such as 8h")),
        )
        if rates.returning == 1:
            raise Invalid("--return 1: peers that all come back lose nothing; write a share below 1, such as 0.99")
    elif returning is not None or return_after is not None:
        raise Invalid("--return and --return-after need --leave: how often a peer falls silent, such as 0.5/d")
    if rates is None or peers is None or chunks is None:
        known = Measured.of(home)
        rates = rates or known.rates()
        peers, chunk_count = peers or known.peers, known.chunks if chunks is None else parse_count("--chunks", chunks)
    else:
        chunk_count = parse_count("--chunks", chunks)
    wanted = copies or tuple(range(min(2, peers), min(MOST_COPIES, peers) + 1))
    if max(wanted) > peers:
        raise Invalid(f"--copies {max(wanted)}: a pool of {peers} peers holds at most {peers} copies of a chunk")
    settings = Settings()
    return Question(
        Pool(peers, max(1, chunk_count), rates, settings.down, settings.repair_rate or float("inf")),
        most_lost=1 - kept,
        period_s=parse_time("--over", over),
        copies=sorted(set(wanted)),
        delays_s=sorted({parse_time("--repair-delay", delay) for delay in delays or DELAYS}),
        sample=max(1, parse_count("--sample", sample)),
        seed=seed,
    )


def _needed(option: str, text: str | None, what: str) -> str:
    if text is None:
        raise Invalid(f"{option} is missing: with --leave it says {what}")
    return text


class Measured:
    """What the coordinator of a home says of its pool."""

    def __init__(self, report: dict[str, Any]) -> None:
        self.peers = sum(peer["state"] not in GONE_STATES for peer in report["peers"])
        self.chunks = int(report["chunks"]["total"])
        self._churn: dict[str, Any] = report.get("churn") or {}

    @classmethod
    def of(cls, home: NodeHome) -> "Measured":
        """Ask it.

        Raises:
            UserError: There is no home, and so nobody to ask.
            Unavailable: It does not answer.
        """
        from p2pfs.cli import connect
        from p2pfs.cli.report import parse

        try:
            return cls(parse(connect.fetch(home, "/status")))
        except UserError as error:
            if error.exit_code != exitcodes.NO_HOME:
                raise
            raise UserError(
                f"this machine is in no pool whose peers were watched ({home.path}): say --peers, --leave, --return,"
                " --return-after and --chunks",
                exitcodes.NO_HOME,
            ) from None

    def rates(self) -> "Rates":
        """How its peers come and go.

        Raises:
            Invalid: It has seen too little of it.
        """
        from p2pfs.sim.churn import Rates

        left, peer_days = self._churn.get("left", 0), self._churn.get("peer_days", 0.0)
        if left < ENOUGH_LEAVES or peer_days <= 0:
            raise Invalid(
                f"the coordinator has seen peers fall silent {left} times so far, too seldom to reckon with: say"
                " --leave, --return and --return-after"
            )
        back, gone = self._churn["returned"], self._churn["gone"]
        # As if half a peer more had come back and half a one gone: none seen does not mean never.
        share = (back + 0.5) / (back + gone + 1)
        return Rates(left / peer_days, share, max(1.0, self._churn["absence_s"]))


# ---- units ----------------------------------------------------------------------------------------------------------


def parse_time(option: str, text: str) -> float:
    """Seconds, above 0; a number alone is refused. Raises Invalid."""
    if re.fullmatch(r"[\d.]+", text.strip()):
        raise Invalid(f"{option} {text}: write the unit too, such as 10min, 8h or {text.strip()}d")
    try:
        seconds = given_duration(text)
    except Invalid as error:
        raise Invalid(f"{option}: {error}") from None
    if seconds <= 0:
        raise Invalid(f"{option} {text}: it must be longer than nothing")
    return seconds


def parse_rate(option: str, text: str) -> float:
    """How often a day: "0.5/d", "1/h"; or the mean time between, "2d". Raises Invalid."""
    found = _RATE.fullmatch(text.strip())
    if found is None:
        if re.fullmatch(r"[\d.]+", text.strip()):
            raise Invalid(
                f"{option} {text}: write how often, such as {text.strip()}/d, or after how long on average, such as"
                f" {text.strip()}d"
            )
        return _DAY_S / parse_time(option, text)
    try:
        rate = float(found[1]) * _DAY_S / given_duration(f"1{found[2]}")
    except Invalid:
        raise Invalid(f"{option} {text}: after the stroke stands a unit of time, as in 0.5/d or 1/h") from None
    if rate <= 0:
        raise Invalid(f"{option} {text}: peers that never leave lose nothing; write a rate above 0")
    return rate


def parse_share(option: str, text: str) -> float:
    """0 to 1: "0.9", "90%". Raises Invalid."""
    number, percent = text.strip().removesuffix("%").strip(), text.strip().endswith("%")
    try:
        share = float(number) / (100 if percent else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Invalid(f"{option} {text}: write a share, such as 0.9 or 90%")
    return share


def parse_count(option: str, text: str) -> int:
    """A number: "100k", "10M" (powers of ten). Raises Invalid."""
    found = _COUNT.fullmatch(text.strip())
    if found is None:
        raise Invalid(f"{option} {text}: write how many, such as 500k or 10M")
    return int(float(found[1]) * {"": 1, "k": 1000, "M": 1_000_000}[found[2]])
