"""What two runs of pytest side by side mean together."""

import halves
import pytest

pytestmark = pytest.mark.l0


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [([0, 0], 0), ([0, 1], 1), ([1, 0], 1), ([2, 1], 2), ([0, 5], 0), ([5, 0], 0), ([5, 5], 5), ([5, 1], 1)],
)
def test_one_failure_is_enough_and_a_half_may_have_nothing_to_do(codes: list[int], verdict: int) -> None:
    assert halves.verdict(codes) == verdict
