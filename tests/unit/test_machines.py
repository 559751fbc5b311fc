"""The machines that tests make, as far as that needs none."""

import os
import subprocess
from pathlib import Path

import pytest
from machines import Machine, Network

pytestmark = pytest.mark.l0


def test_one_that_did_not_come_up_is_switched_off_without_ending_those_who_wanted_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    machine = Machine(Network(tmp_path), "desk", "10.0.0.1")
    process = machine._process = subprocess.Popen(["true"], stdout=subprocess.PIPE, text=True)
    machine.power_off()
    assert set(killed) <= {process.pid}  # 0 would be whoever is in this process's group
    assert machine._process is None
