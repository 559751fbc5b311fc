"""The plugin that makes unclaimed warnings fail: proven to fail."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from plugins.checklogs import Claims

pytestmark = pytest.mark.l0

INNER = """
import logging
import pytest

def test_quiet():
    logging.getLogger("a").info("fine")

def test_warns():
    logging.getLogger("a").warning("careful")

def test_claims(claim_logs):
    claim_logs("care.*", count=1)
    logging.getLogger("a").warning("careful")

def test_claims_too_much(claim_logs):
    claim_logs("care.*")
"""


def test_unclaimed_warnings_and_idle_claims_fail_a_test(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "plugins.checklogs", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=tests, timeout=60, env={"PYTHONPATH": str(tests)}, check=False
    )
    assert "unclaimed WARNING of a: careful" in done.stdout
    assert "claimed 'care.*' at least 1 times, logged 0 times" in done.stdout
    assert "4 passed, 2 errors" in done.stdout


def test_claims_are_counted(claim_logs: Claims) -> None:
    records = [logging.LogRecord("x", logging.ERROR, "", 0, "a %s", ("b",), None)] * 2
    assert Claims().complaints(records) == ["unclaimed ERROR of x: a b"] * 2
    claims = Claims()
    claims("a b", count=1)
    assert claims.complaints(records) == ["claimed 'a b' 1 times, logged 2 times"]
