"""Settings: defaults, the file, overrides, and everything that is refused."""

from pathlib import Path

import pytest

from p2pfs.errors import Invalid, Unavailable
from p2pfs.runtime.config import KINDS, Settings, format_setting, load, parse_setting
from p2pfs.types import GIB, KIB, MIB

pytestmark = pytest.mark.l0


def test_without_a_file_the_defaults_of_the_design_hold(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings == Settings()
    assert (settings.heartbeat, settings.suspect, settings.down) == (5, 15, 60)
    assert (settings.repair_delay, settings.invite_lifetime, settings.io_timeout) == (600, 86400, 30)
    assert (settings.replicas, settings.min_replicas) == (3, 2)
    assert (settings.small_file, settings.memory_cache) == (16 * KIB, 128 * MIB)
    assert settings.durability == "close"


def test_the_file_sets_and_overrides_win(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('capacity = "20G"\nheartbeat = 2\ndedup = false\nreplicas = 4\n')
    settings = load(tmp_path, {"heartbeat": "500ms", "early_purge": "100%"})
    assert settings.capacity == 20 * GIB
    assert settings.heartbeat == 0.5
    assert settings.dedup is False
    assert settings.replicas == 4
    assert settings.early_purge == 1.0


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_setting_reads_back_what_it_shows(name: str) -> None:
    default = getattr(Settings(), name)
    assert parse_setting(name, format_setting(name, default)) == default


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('colour = "red"', "“colour” is no setting"),
        ('heartbeat = "soon"', "setting heartbeat: “soon” is no time span"),
        ("replicas = 0", "setting replicas"),
        ("replicas = 2.5", "setting replicas"),
        ('dedup = "maybe"', "setting dedup"),
        ('durability = "never"', "setting durability"),
        ("early_purge = 2", "setting early_purge"),
        ('capacity = ["1G"]', "capacity needs one value"),
        ("[capacity]\na = 1", "capacity needs one value"),
        ("replicas = 1\nmin_replicas = 2", "min_replicas"),
        ('suspect = "2s"', "each be longer"),
        ('elect_after = "60s"', "elect_after must be longer than down"),
        ('down = "2min"', "elect_after must be longer than down"),
        ('io_timeout = "0s"', "io_timeout"),
        ('scrub_period = "0s"', "scrub_period"),
        ('renew_after = "100d"', "renew_after"),
        ('small_file = "1M"', "small_file"),
        ('write_buffer = "1M"', "write_buffer"),
        ("replicas = ", "not valid TOML"),
        ("\x00", "not valid TOML"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_named(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(Invalid, match=complaint):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [("io_timeout", "5"), ("heartbeat", " 0.5 "), ("capacity", "200"), ("memory_cache", "128"), ("repair_rate", "5")],
)
def test_a_forgotten_unit_is_refused_on_the_command_line_and_read_in_files_of_older_versions(
    tmp_path: Path, name: str, text: str
) -> None:
    with pytest.raises(Invalid, match=f"setting {name}: .* has no unit"):
        load(tmp_path, {name: text})
    (tmp_path / "config.toml").write_text(f'down = "60"\n{name} = {text}\n')
    assert getattr(load(tmp_path), name) == float(text)


def test_nothing_needs_no_unit(tmp_path: Path) -> None:
    settings = load(
        tmp_path, {"delegation": "0", "cache_size": "0", "reserve": "0", "replicas": "3", "away_for": "0.0"}
    )
    assert (settings.delegation, settings.cache_size, settings.reserve, settings.away_for) == (0, 0, 0, 0)


def test_a_rate_may_be_none(tmp_path: Path) -> None:
    assert load(tmp_path, {"scrub_rate": "none"}).scrub_rate is None
    assert (
        load(tmp_path, {"scrub_rate": "5M/s"}).scrub_rate == load(tmp_path, {"scrub_rate": "5M"}).scrub_rate == 5 * MIB
    )
    assert format_setting("scrub_rate", None) == "none"
    assert format_setting("scrub_rate", 5 * MIB) == "5 MiB/s"
    for text in ("0", "0M/s", "fast"):
        with pytest.raises(Invalid, match="setting scrub_rate"):
            load(tmp_path, {"scrub_rate": text})


def test_an_unknown_override_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="“color” is no setting"):
        load(tmp_path, {"color": "red"})


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.toml").mkdir()
    with pytest.raises(Unavailable, match="cannot read"):
        load(tmp_path)
