"""When looks that may be in vain are due."""

import pytest

from p2pfs.runtime.looks import Looks

pytestmark = pytest.mark.l1


def test_looks_in_vain_become_rare_and_one_that_finds_brings_them_back() -> None:
    looks = Looks()
    for _ in range(8):
        assert looks.is_due()
        looks.note(found=False)
    for _ in range(3):
        assert [looks.is_due() for _ in range(8)] == [False] * 7 + [True]
        looks.note(found=False)
    assert [looks.is_due() for _ in range(8)][-1]
    looks.note(found=True)
    assert [looks.is_due() for _ in range(8)] == [True] * 8
