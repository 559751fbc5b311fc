"""Loaded for every test: plugins, and hypothesis settings that keep runs short and repeatable."""

import gc
import os
import signal
from collections.abc import Iterator

import hypothesis
import pytest

pytest_plugins = ["plugins.checkconnections", "plugins.checklogs"]

os.environ.pop("CI", None)  # pytest would print all of a difference there, which takes it hours for a MiB of bytes

hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=60, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True, database=None)
hypothesis.settings.load_profile(os.environ.get("P2PFS_HYPOTHESIS", "default"))


@pytest.fixture
def sigint() -> Iterator[None]:
    """SIGINT raises KeyboardInterrupt, also where the run ignores it, as in the background of a script."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is looked for: what goes, goes because nobody has it any more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
