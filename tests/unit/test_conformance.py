"""What a run of the conformance suite means: when a failure counts, and that its list and its cases are sound."""

from pathlib import Path

import pytest
from conformance.cases import PROGRAMS
from conformance.run import PAGE, SAMPLE_S, Attempt, Result, chosen, judge, known

pytestmark = pytest.mark.l0

GOOD, BAD = Attempt("", 1.0, ""), Attempt("exit status 1", 1.0, "no")


def listing(rows: int) -> str:
    lines = [f"| `case-{number}` | why |" for number in range(rows)]
    return "\n".join(["<!-- conformance -->", "| case | why it fails |", "|---|---|", *lines, "<!-- /conformance -->"])


def must_not_run() -> Attempt:
    raise AssertionError("the pass-through is asked only about failures")


@pytest.mark.parametrize(
    ("ours", "other", "listed", "result"),
    [
        (BAD, GOOD, {}, Result.FAILED),
        (BAD, BAD, {}, Result.NOT_OURS),
        (BAD, GOOD, {"case": "why"}, Result.KNOWN),
        (BAD, GOOD, {"another": "why"}, Result.FAILED),
    ],
)
def test_a_failure_counts_if_the_pass_through_passes_and_nobody_knows_of_it(
    ours: Attempt, other: Attempt, listed: dict[str, str], result: Result
) -> None:
    assert judge("case", ours, lambda: other, listed).result is result


def test_what_passes_is_not_tried_on_the_pass_through() -> None:
    assert judge("case", GOOD, must_not_run, {}).result is Result.PASSED


def test_a_listed_case_that_passes_is_told_of() -> None:
    assert "listed" in judge("case", GOOD, must_not_run, {"case": "why"}).note


def test_the_list_is_read_from_the_page() -> None:
    assert known(listing(2)) == {"case-0": "why", "case-1": "why"}
    assert known(listing(10))
    with pytest.raises(ValueError, match="at most 10"):
        known(listing(11))
    with pytest.raises(ValueError, match="its reason"):
        known(listing(1).replace("why |", "|"))


def test_the_page_lists_cases_that_exist() -> None:
    """Single stressors are those of the machine's stress-ng."""
    names = {case.name for case in PROGRAMS}
    unknown = {name for name in known(PAGE.read_text(encoding="utf-8")) if not name.startswith("stress-ng/")} - names
    assert unknown == set()


def test_a_name_that_is_no_case_is_refused() -> None:
    assert [case.name for case in chosen(["fio"], sample=True)] == ["fio"]
    with pytest.raises(SystemExit, match="no such case: fi0"):
        chosen(["fi0"], sample=True)


def test_what_the_cases_call_is_there() -> None:
    programs = Path(PAGE.parents[1], "tests", "conformance", "programs")
    called = {
        word.removeprefix("$PROGRAMS/") for case in PROGRAMS for word in case.command.split() if "$PROGRAMS" in word
    }
    assert called == {path.name for path in programs.iterdir()} - {"tree.py", "__pycache__"}
    assert SAMPLE_S <= 180
