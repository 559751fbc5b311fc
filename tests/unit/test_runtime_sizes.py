"""Sizes and times as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Invalid
from p2pfs.runtime.sizes import format_count, format_duration, format_size, parse_duration, parse_size
from p2pfs.types import GIB, KIB, MIB

pytestmark = pytest.mark.l0


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("4096B", 4096),
        ("20G", 20 * GIB),
        ("20 GiB", 20 * GIB),
        ("20gb", 20 * GIB),
        ("1.5M", MIB + 512 * KIB),
        (" 7k ", 7 * KIB),
        ("2T", 2048 * GIB),
        ("1P", GIB * MIB),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1 2", "1X", "0x10", "1e3", "20GG", "١", "9999999999T", "1.G"])
def test_what_is_no_size_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match=r"“.*” is"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1" * 5000, "1" * 400 + ".5T", "1." + "1" * 5000 + "T"])
def test_digits_without_end_are_no_size_and_no_time_span(text: str) -> None:
    with pytest.raises(Invalid):
        parse_size(text)
    with pytest.raises(Invalid):
        parse_duration(text.removesuffix("T") + "y")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (12 * MIB + 512 * KIB, "12.5 MiB"),
        (GIB - 1, "1 GiB"),
        (999 * GIB, "999 GiB"),
        (1 << 70, "1024 EiB"),
    ],
)
def test_sizes_are_shown_shortly(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, (1 << 62)))
def test_a_shown_size_reads_back_within_its_precision(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= max(1, size * 0.06)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5s", 5),
        ("0", 0),
        ("2.5", 2.5),
        ("500ms", 0.5),
        ("10min", 600),
        ("10m", 600),
        ("24h", 86400),
        ("30d", 30 * 86400),
        ("1h30m", 5400),
        ("1h 30min", 5400),
        ("100y", 100 * 365 * 86400),
        ("2w", 14 * 86400),
        ("3 sec", 3),
    ],
)
def test_time_spans_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-5s", "5 parsecs", "5s!", "1e9", "nan", "inf", "5s5"])
def test_what_is_no_time_span_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Invalid, match=r"is no time span"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.45, "450ms"),
        (5, "5s"),
        (90, "1min 30s"),
        (3600, "1h"),
        (3605, "1h"),
        (97200, "1d 3h"),
        (400 * 86400, "1y 35d"),
    ],
)
def test_time_spans_are_shown_with_two_units_at_most(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(0.001, 1e9))
def test_a_shown_time_span_reads_back_within_its_precision(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.5)


def test_one_is_no_plural() -> None:
    assert [format_count(number, "chunk") for number in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]
    assert [format_count(number, "copy") for number in (1, 3)] == ["1 copy", "3 copies"]
    assert format_count(2, "file or directory", "files and directories") == "2 files and directories"
