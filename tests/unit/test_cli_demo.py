"""`p2pfs demo`: what a pool is planned to be, and the processes of its parts."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfs import exitcodes
from p2pfs.cli import main
from p2pfs.cli.trying import demo_parts, demo_plan
from p2pfs.cli.trying.demo_parts import Launched, Part, PartState
from p2pfs.cli.trying.demo_pool import DemoPool
from p2pfs.errors import UserError

pytestmark = pytest.mark.l0


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_a_new_pool_has_the_defaults_of_the_design(tmp_path: Path) -> None:
    plan = demo_plan.decide(tmp_path, None, mount=None, peers=None, given={})
    assert plan.mount == str(tmp_path / "mnt")
    assert len(plan.peer_ports) == 3
    assert len({plan.coordinator_port, *plan.peer_ports}) == 4
    assert (plan.settings["replicas"], plan.settings["min_replicas"]) == ("2", "2")
    assert plan.settings["early_purge"] == "100%"


@pytest.mark.parametrize(("replicas", "least"), [("1", "1"), ("2", "2"), ("5", "2")])
def test_writes_wait_for_two_copies_where_there_are_two(tmp_path: Path, replicas: str, least: str) -> None:
    plan = demo_plan.decide(tmp_path, None, mount=None, peers=5, given={"replicas": replicas})
    assert plan.settings["min_replicas"] == least


def test_peers_do_not_offer_the_same_disk_twice(tmp_path: Path) -> None:
    from p2pfs.runtime.sizes import parse_size

    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    plan = demo_plan.decide(tmp_path, None, mount=None, peers=4, given={})
    assert 4 * parse_size(plan.settings["capacity"]) <= free


def test_a_known_pool_keeps_what_is_not_given_anew(tmp_path: Path) -> None:
    first = demo_plan.decide(tmp_path, None, mount=Path("/mnt/x"), peers=2, given={"heartbeat": "1s"})
    demo_plan.write(tmp_path, first)
    again = demo_plan.decide(tmp_path, demo_plan.read(tmp_path), mount=None, peers=None, given={})
    assert again == first
    more = demo_plan.decide(tmp_path, first, mount=None, peers=4, given={"io_timeout": "9s"})
    assert more.peer_ports[:2] == first.peer_ports
    assert len(set(more.peer_ports)) == 4
    assert more.settings == first.settings | {"io_timeout": "9s"}


def test_options_of_the_mount_are_kept_until_others_are_given(tmp_path: Path) -> None:
    def words(plan: demo_plan.Plan) -> tuple[str, ...]:
        return DemoPool(tmp_path, plan).mount().arguments

    first = demo_plan.decide(tmp_path, None, mount=None, peers=2, given={}, options="xattr,ro")
    demo_plan.write(tmp_path, first)
    again = demo_plan.decide(tmp_path, demo_plan.read(tmp_path), mount=None, peers=None, given={})
    for plan in (first, again):
        assert words(plan)[:3] == ("mount", "-o", "xattr,ro")
    without = demo_plan.decide(tmp_path, again, mount=None, peers=None, given={}, options="")
    assert "-o" not in words(without)


def test_a_mount_option_that_is_none_is_told_before_anything_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="xatr") as caught:
        DemoPool.prepare(tmp_path, mount=None, peers=None, replicas=None, settings={}, options="xatr")
    assert caught.value.exit_code == exitcodes.BAD_CONFIGURATION
    assert demo_plan.read(tmp_path) is None


def test_a_peer_cannot_be_left_out(tmp_path: Path) -> None:
    first = demo_plan.decide(tmp_path, None, mount=None, peers=3, given={})
    with pytest.raises(UserError, match="copies") as caught:
        demo_plan.decide(tmp_path, first, mount=None, peers=2, given={})
    assert caught.value.exit_code == exitcodes.USAGE


@pytest.mark.parametrize("given", [{"unheard_of": "1"}, {"replicas": "none"}, {"heartbeat": "20s"}])
def test_a_bad_setting_is_told_before_anything_starts(tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(UserError) as caught:
        demo_plan.decide(tmp_path, None, mount=None, peers=None, given=given)
    assert caught.value.exit_code == exitcodes.BAD_CONFIGURATION


def test_two_commands_do_not_work_on_one_root(tmp_path: Path) -> None:
    with demo_plan.locked(tmp_path), pytest.raises(UserError) as caught, demo_plan.locked(tmp_path):
        pass
    assert caught.value.exit_code == exitcodes.BUSY


def test_a_damaged_plan_is_told(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        demo_plan.read(tmp_path)


@pytest.mark.parametrize("command", ["stop", "status", "env"])
def test_without_a_pool_there_is_nothing_to_show(command: str, tmp_path: Path) -> None:
    assert main.run(["demo", command, "--root", str(tmp_path)]) == exitcodes.NO_HOME


@pytest.fixture
def pool(tmp_path: Path) -> DemoPool:
    plan = demo_plan.decide(tmp_path, None, mount=None, peers=2, given={})
    demo_plan.write(tmp_path, plan)
    return DemoPool(tmp_path, plan)


def test_parts_lie_where_the_design_says(pool: DemoPool) -> None:
    parts = {part.name: part for part in pool.parts()}
    assert list(parts) == ["coordinator", "peer-1", "peer-2", "mount"]
    for name, part in parts.items():
        assert part.home == pool.root / name
        assert part.pid_path == pool.root / "run" / f"{name}.pid"
        assert part.log_path == pool.root / "log" / f"{name}.log"
        assert part.arguments[part.arguments.index("--log-file") + 1] == str(part.log_path)  # and so it is bounded
    words = " ".join(parts["mount"].arguments)
    assert str(pool.passphrase_path) in words  # the file, not what is in it


def test_status_lists_part_pid_and_state(pool: DemoPool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["demo", "status", "--json", "--root", str(pool.root)]) == exitcodes.OK
    listed = json.loads(capsys.readouterr().out)
    assert listed[0] == {"part": "coordinator", "pid": None, "state": "stopped"}
    assert [part["part"] for part in listed] == ["coordinator", "peer-1", "peer-2", "mount"]
    assert main.run(["demo", "status", "--root", str(pool.root)]) == exitcodes.OK
    assert "stopped" in capsys.readouterr().out


def test_env_points_a_shell_at_the_pool(pool: DemoPool, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["demo", "env", "--root", str(pool.root)]) == exitcodes.OK
    script = capsys.readouterr().out + 'printf "%s" "$P2PFS_HOME"'
    shell = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert shell.stdout == str(pool.root / "mount")


# ---- the parts ------------------------------------------------------------------------------------------------------

_LIVE = "import sys; print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return Part("peer-1", tmp_path / "peer-1", (), tmp_path / "run" / "peer-1.pid", tmp_path / "log" / "peer-1.log")


@pytest.fixture
def process(part: Part) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like the part's."""
    part.pid_path.parent.mkdir()
    arguments = [sys.executable, "-c", _LIVE, "p2pfs.cli.main", "--home", str(part.home)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        part.pid_path.write_text(f"{process.pid}\n")
        yield process
        process.kill()


def _wait_for(part: Part, state: PartState) -> None:
    """A signal has arrived when the kernel shows its effect; nothing else announces it."""
    while part.state() is not state:
        os.sched_yield()


def test_a_part_is_running_paused_dead_or_stopped(part: Part, process: subprocess.Popen[bytes]) -> None:
    assert part.state() is PartState.RUNNING
    process.send_signal(signal.SIGSTOP)
    _wait_for(part, PartState.PAUSED)
    process.send_signal(signal.SIGCONT)
    _wait_for(part, PartState.RUNNING)
    process.kill()
    _wait_for(part, PartState.DEAD)  # a zombie until somebody waits for it
    process.wait()
    assert part.state() is PartState.DEAD
    part.forget()
    assert part.state() is PartState.STOPPED


def test_a_process_that_got_the_number_later_is_not_the_part(part: Part) -> None:
    part.pid_path.parent.mkdir()
    part.pid_path.write_text(f"{os.getpid()}\n")
    assert part.state() is PartState.DEAD
    part.signal(signal.SIGKILL)  # must not reach this very process
    assert demo_parts.end([part], 1.0) == []


def test_a_paused_part_is_ended_too(part: Part, process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    _wait_for(part, PartState.PAUSED)
    assert demo_parts.end([part], 30.0) == []
    assert process.wait() == -signal.SIGTERM
    assert part.state() is PartState.STOPPED


def test_a_part_that_does_not_listen_is_killed_and_named(part: Part) -> None:
    part.pid_path.parent.mkdir()
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + _LIVE
    arguments = [sys.executable, "-c", deaf, "p2pfs.cli.main", "--home", str(part.home)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        part.pid_path.write_text(f"{process.pid}\n")
        assert demo_parts.end([part], 0.1) == [part]
        assert process.wait() == -signal.SIGKILL


def _launch(part: Part, monkeypatch: pytest.MonkeyPatch, script: str) -> Launched:
    """Launch a script in place of p2pfs; it may call ready()."""
    prelude = "import os, sys; from p2pfs.runtime.notify import notify; ready = lambda: notify('STATUS=…\\nREADY=1'); "
    real = subprocess.Popen

    def popen(_arguments: list[str], **options: object) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", prelude + script], **options)  # type: ignore[call-overload,no-any-return]

    monkeypatch.setattr(demo_parts.subprocess, "Popen", popen)
    return Launched(part)


def test_a_launched_part_is_ready_when_it_says_so(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = _launch(part, monkeypatch, "ready()")
    launched.await_ready(60)
    assert part.pid() == launched._process.pid
    launched._process.wait()


def test_a_part_that_fails_passes_on_its_sentence_and_exit_status(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    part.log_path.parent.mkdir()
    part.log_path.write_text("p2pfs: a failure of last week\n")
    launched = _launch(part, monkeypatch, "print('p2pfs: the port is taken', file=sys.stderr); sys.exit(17)")
    with pytest.raises(UserError, match="peer-1 did not start: the port is taken") as caught:
        launched.await_ready(60)
    assert caught.value.exit_code == exitcodes.BUSY


def test_a_part_whose_log_was_full_passes_on_its_sentence_from_the_new_one(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    part.log_path.parent.mkdir()
    part.log_path.write_text("of last week\n" * 10_000)
    turned = (
        f"os.rename({str(part.log_path)!r}, {str(part.log_path) + '.1'!r}); log = open({str(part.log_path)!r}, 'w')"
    )
    launched = _launch(
        part, monkeypatch, f"{turned}; print('p2pfs: the port is taken', file=log, flush=True); sys.exit(17)"
    )
    with pytest.raises(UserError, match="peer-1 did not start: the port is taken"):
        launched.await_ready(60)


def test_a_part_that_is_killed_while_it_starts_is_a_failure(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = _launch(part, monkeypatch, "os.kill(os.getpid(), 9)")
    with pytest.raises(UserError, match=r"see .*peer-1\.log") as caught:
        launched.await_ready(60)
    assert caught.value.exit_code == exitcodes.FAILED


def test_a_part_that_never_gets_ready_is_given_up(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = _launch(
        part, monkeypatch, "os.read(0, 1); os.pause() if hasattr(os, 'pause') else __import__('signal').pause()"
    )
    with pytest.raises(UserError, match="not ready after"):
        launched.await_ready(0.1)
    launched._process.kill()
    launched._process.wait()
