"""SIGUSR1: where everything waits, in lines, and nothing of what it holds."""

import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
import trio
import trio.testing

from p2pfs.runtime import inspection

pytestmark = pytest.mark.l0


async def _waiting_with(secret: str) -> None:
    assert secret
    await trio.sleep_forever()


async def _parent(secret: str, count: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(_waiting_with, secret)


async def test_a_signal_writes_the_tree_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with inspection.inspectable(), trio.open_nursery() as nursery:
        nursery.start_soon(_parent, "correct horse", 40)
        await trio.testing.wait_all_tasks_blocked()
        os.kill(os.getpid(), signal.SIGUSR1)
        while not caplog.messages:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    told = "\n".join(caplog.messages)
    (parent,) = [line for line in caplog.messages if "_parent:" in line]
    (children,) = [line for line in caplog.messages if "_waiting_with:" in line]
    assert children.endswith("× 40")
    assert "test_runtime_inspection.py:" in children
    assert _indent(children) > _indent(parent)
    assert "correct horse" not in told
    assert os.fspath(os.getcwd()) not in told


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


async def test_threads_are_told_and_the_number_of_lines_is_bounded() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, name="stuck-in-a-disk", daemon=True)
    thread.start()
    try:
        assert any(line.startswith("thread stuck-in-a-disk: ") for line in inspection.lines())
        assert len(inspection.lines(most=2)) == 3
        assert inspection.lines(most=2)[-1].startswith("… and ")
    finally:
        release.set()
        thread.join()


async def test_what_an_asynchronous_generator_waits_for_is_told() -> None:
    async def endless() -> AsyncIterator[int]:
        await trio.sleep_forever()
        yield 1

    async def reader() -> None:
        async with aclosing(endless()) as numbers:
            async for _ in numbers:
                pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader)
        await trio.testing.wait_all_tasks_blocked()
        (line,) = [line for line in inspection.lines() if "reader" in line]
        nursery.cancel_scope.cancel()
    assert "> endless " in line
