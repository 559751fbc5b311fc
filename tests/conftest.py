"""Loaded for every test: plugins, and hypothesis settings that keep runs short and repeatable."""

import os

import hypothesis

pytest_plugins = ["plugins.checklogs"]

hypothesis.settings.register_profile(
    "default", deadline=None, max_examples=60, derandomize=True, print_blob=True, database=None
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=2000, print_blob=True, database=None)
hypothesis.settings.load_profile(os.environ.get("P2PFS_HYPOTHESIS", "default"))
