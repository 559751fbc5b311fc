"""`/metrics`: what is told, to whom, and that the page about it is true."""

import itertools
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import trio
from coordination import live
from plugins.checklogs import Claims
from prometheus_client.parser import text_string_to_metric_families

from p2pfs.coordinator import metrics as coordinator
from p2pfs.coordinator.history import NAMES
from p2pfs.net import exposition
from p2pfs.net.exposition import AT_ONCE, DEADLINE_S, expose
from p2pfs.runtime.files import write_durably
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.latency import BOUNDS_S, CLASSES, Latency
from p2pfs.runtime.metrics import MOST_LABELLED, Exposition, Figure, counter, gauge, histogram, process_figures
from p2pfs_mount.figures import MountFigures
from p2pfs_peerd import metrics as peer

pytestmark = pytest.mark.l0

PAGE = Path(__file__).parents[2] / "docs" / "monitoring.md"
REQUEST = b"GET /metrics HTTP/1.1\r\nhost: x\r\naccept: text/plain\r\n\r\n"


def all_figures() -> dict[str, list[Figure]]:
    """Of every part. Nothing of what they would read is there: it is not looked at."""
    nothing = MagicMock()
    return {
        "coordinator": coordinator.figures(nothing, nothing, nothing, nothing, []),
        "peer": peer.figures(nothing, nothing, store=nothing, app=nothing, scrubber=nothing, absence=nothing),
        "mount": MountFigures(nothing, nothing, nothing).figures(nothing),
    }


def table(name: str) -> list[list[str]]:
    text = PAGE.read_text(encoding="utf-8")
    inside = text.split(f"<!-- {name} -->", 1)[1].split(f"<!-- /{name} -->", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in inside.strip().splitlines()][2:]


# ---- the page -------------------------------------------------------------------------------------------------------


def test_every_metric_is_documented_with_kind_part_and_labels() -> None:
    found: dict[tuple[str, str, str], set[str]] = {}
    for part, figures in all_figures().items():
        for figure in figures:
            labels = ", ".join(f"`{label}`" for label in figure.labels)
            found.setdefault((f"`{figure.name}`", figure.kind, labels), set()).add(part)
    documented = {
        (name, kind, labels): {"coordinator", "peer", "mount"} if of == "all" else set(of.split(", "))
        for name, kind, of, labels, _meaning in table("metrics")
    }
    assert documented == found


def test_every_series_of_the_history_is_documented() -> None:
    cells = " ".join(row[0] for row in table("history"))
    documented = set(re.findall(r"`([a-z_.0-9]+)`", cells))
    documented |= {f"chunks.copies.{copies}" for copies in range(1, 6)}  # written with an ellipsis
    assert documented == set(NAMES)


@pytest.mark.parametrize("part", ["coordinator", "peer", "mount"])
def test_names_are_as_prometheus_wants_them(part: str) -> None:
    figures = all_figures()[part]
    assert len({figure.name for figure in figures}) == len(figures)
    for figure in figures:
        assert re.fullmatch(r"(p2pfs|process)_[a-z0-9_]+", figure.name)
        assert figure.name.endswith("_total") == (figure.kind == "counter"), figure.name
        assert figure.help.endswith("."), figure.name


# ---- the text -------------------------------------------------------------------------------------------------------


def told(*figures: Figure) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name → labels → value, as Prometheus reads it."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(Exposition(figures).text().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def test_numbers_with_and_without_labels() -> None:
    found = told(
        counter("p2pfs_a_total", "A.", lambda: 3),
        gauge("p2pfs_b", "B.", lambda: {"in": 1, "out": 2.5}, "direction"),
        gauge("p2pfs_c", "C.", lambda: {('quo"te\n', "y"): 1}, "one", "two"),
        gauge("p2pfs_d", "Nothing to tell.", dict),
    )
    assert found["p2pfs_a_total"] == {(): 3}
    assert found["p2pfs_b"] == {(("direction", "in"),): 1, (("direction", "out"),): 2.5}
    assert found["p2pfs_c"] == {(("one", 'quo"te\n'), ("two", "y")): 1}
    assert "p2pfs_d" not in found


def test_latencies_are_counted_in_classes() -> None:
    latency = Latency()
    for took_s in (0, 10e-6, 17e-6, 0.001, 0.0043, 50, 1000):
        latency.note(int(took_s * 1e9))
    assert latency.count == 7
    assert len(latency.counts) == CLASSES == len(BOUNDS_S) + 1
    for took_ns in (1, 1 << 14, (1 << 14) - 1, 1 << 20, (1 << 20) - 1, 10**9, 10**12):
        one = Latency()
        one.note(took_ns)
        index = one.counts.index(1)
        assert index == CLASSES - 1 or took_ns / 1e9 < BOUNDS_S[index]
        assert index == 0 or took_ns / 1e9 >= BOUNDS_S[index - 1]
    found = told(histogram("p2pfs_x_seconds", "X.", lambda: {"read": latency}, "operation"))
    buckets = found["p2pfs_x_seconds_bucket"]
    assert [buckets[key] for key in buckets] == sorted(buckets.values())
    assert buckets[("le", "+Inf"), ("operation", "read")] == found["p2pfs_x_seconds_count"][(("operation", "read"),)]
    assert sum(found["p2pfs_x_seconds_sum"].values()) == pytest.approx(1050.005327)


def test_one_that_cannot_be_read_leaves_the_others_and_is_logged_once(claim_logs: Claims) -> None:
    claim_logs("the metric p2pfs_bad cannot be read", count=1)
    exposition = Exposition([gauge("p2pfs_bad", "Bad.", lambda: 1 // 0), gauge("p2pfs_good", "Good.", lambda: 1)])
    for _ in range(3):
        assert b"p2pfs_good 1.0" in exposition.text()


def test_labels_do_not_grow_without_bound() -> None:
    found = told(gauge("p2pfs_x", "X.", lambda: {str(number): 1.0 for number in range(10_000)}, "x"))
    assert len(found["p2pfs_x"]) == MOST_LABELLED


def test_a_certificate_is_read_again_only_when_it_was_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, reads = NodeHome(tmp_path), itertools.count(1)
    monkeypatch.setattr(exposition, "expires_s", lambda _: float(next(reads)))
    (figure,) = [one for one in exposition.common_figures("peer", home) if "certificate" in one.name]
    home.certificate_path.parent.mkdir(exist_ok=True)
    for expected in (1, 2):
        write_durably(home.certificate_path, b"a certificate", sync=False)
        assert [figure.read() for _ in range(3)] == [expected] * 3


def test_a_process_tells_of_itself() -> None:
    found = told(*process_figures("peer"))
    assert next(iter(found["p2pfs_build_info"]))[0] == ("part", "peer")
    assert found["process_resident_memory_bytes"][()] > 1_000_000
    assert found["process_open_fds"][()] >= 3
    assert set(found["p2pfs_log_records_total"]) == {(("level", "warning"),), (("level", "error"),)}


# ---- the listener ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def exposed(*figures: Figure) -> AsyncIterator[tuple[str, int]]:
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(expose, "127.0.0.1:0", figures)
        host, _, port = address.rpartition(":")
        yield host, int(port)
        nursery.cancel_scope.cancel()


async def ask(address: tuple[str, int], request: bytes = REQUEST) -> bytes:
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(request)
        answer = b""
        async for part in stream:
            answer += part
        return answer


async def test_only_the_one_request_is_answered() -> None:
    async with exposed(gauge("p2pfs_x", "X.", lambda: 7)) as address:
        head, _, body = (await ask(address)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"text/plain; version=0.0.4" in head
        assert body.endswith(b"p2pfs_x 7.0\n")
        assert f"content-length: {len(body)}".encode() in head
        for request, status in (
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
            (b"GET /metrics/../status HTTP/1.1\r\nhost: x\r\n\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", b"405"),
            (b"GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello", b"4"),
            (b"\x16\x03\x01 a TLS hello\r\n\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 20_000, b"400"),
        ):
            answer = await ask(address, request)
            assert answer.startswith(b"HTTP/1.1 " + status), request[:40]
            assert b"p2pfs_x" not in answer


async def test_who_says_nothing_is_hung_up_on_and_keeps_nobody_out(autojump_clock: trio.testing.MockClock) -> None:
    """In memory, as real sockets take no notice of simulated time."""
    served: dict[trio.CancelScope, None] = {}
    hung_up: list[int] = []

    async def listen(number: int, stream: trio.abc.ReceiveStream) -> None:
        assert await stream.receive_some() == b""
        hung_up.append(number)

    began_s = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def connect() -> trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]:
            client, server = trio.testing.memory_stream_pair()
            nursery.start_soon(exposition._serve, lambda: b"text", served, server)
            await trio.testing.wait_all_tasks_blocked()
            assert len(served) <= AT_ONCE
            return client

        for number in range(AT_ONCE + 2):
            nursery.start_soon(listen, number, await connect())
        await trio.testing.wait_all_tasks_blocked()
        assert hung_up == [0, 1]
        scraper = await connect()
        await scraper.send_all(REQUEST)
        assert (await scraper.receive_some()).startswith(b"HTTP/1.1 200 ")
    assert trio.current_time() - began_s <= DEADLINE_S  # all the others were, by then
    assert len(hung_up) == AT_ONCE + 2
    assert not served


async def test_a_bug_ends_one_connection_and_nothing_else(claim_logs: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    claim_logs("metrics could not be told", count=2)

    def text(_self: Exposition) -> bytes:
        raise ImportError("no library")

    monkeypatch.setattr(Exposition, "text", text)
    async with exposed() as address:
        assert await ask(address) == b""
        assert await ask(address) == b""


async def test_a_port_that_is_taken_is_a_warning(claim_logs: Claims) -> None:
    claim_logs("no metrics are served: cannot listen on", count=1)
    async with exposed() as (host, port), trio.open_nursery() as nursery:
        assert await nursery.start(expose, f"{host}:{port}", []) == []


async def test_without_the_setting_nothing_listens() -> None:
    async with trio.open_nursery() as nursery:
        assert await nursery.start(expose, "", []) == []


# ---- a whole coordinator --------------------------------------------------------------------------------------------


async def test_a_coordinator_tells_of_its_pool(tmp_path: Path) -> None:
    async with live(tmp_path, metrics_listen="127.0.0.1:0") as p:
        while not p.running.services.history.latest:
            await trio.lowlevel.checkpoint()
        async with p.client() as client:
            await client.request(p.endpoint, "GET", "/status", timeout_s=5)
        host, _, port = p.running.metrics[0].rpartition(":")
        body = (await ask((host, int(port)))).partition(b"\r\n\r\n")[2].decode()
        families = list(text_string_to_metric_families(body))
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value for f in families for sample in f.samples
        }
        assert samples["p2pfs_pool_health",] == 2  # no peers
        assert samples["p2pfs_requests_total", "2xx", "status"] == 1
        assert samples["p2pfs_pool_peers", "up"] == 0
        assert samples["p2pfs_database_commits_total",] >= 1
        assert samples["p2pfs_worker_failing", "history"] == 0
        lacking = {figure.name for figure in all_figures()["coordinator"]}
        lacking -= {f.name + ("_total" if f.type == "counter" else "") for f in families if f.samples}
        assert lacking == {"p2pfs_backup_age_seconds"}  # there was none yet


# ---- what is made for Prometheus and Grafana ------------------------------------------------------------------------

MONITORING = Path(__file__).parents[2] / "packaging" / "monitoring"
ALERTS = (MONITORING / "p2pfs-alerts.yml").read_text(encoding="utf-8")
DASHBOARD = json.loads((MONITORING / "p2pfs-dashboard.json").read_bytes())
OF_PROMETHEUS = {"job", "instance", "le"}


def unknown(expression: str) -> list[str]:
    """What an expression names that no process tells."""
    known = {figure.name: figure for figures in all_figures().values() for figure in figures}
    found = []
    for name, selector in re.findall(r"\b((?:p2pfs|process)_[a-z0-9_]+)(?:\{([^}]*)\})?", expression):
        stem = re.sub(r"_(bucket|sum|count)$", "", name)
        figure = known.get(name) or known.get(stem)
        if figure is None or (name != figure.name) != (figure.kind == "histogram"):
            found.append(name)
            continue
        labels = set(re.findall(r"([a-z_]+)=", selector)) | OF_PROMETHEUS
        found += [f"{name}{{{label}}}" for label in labels - {*figure.labels, *OF_PROMETHEUS}]
    return found


def test_what_an_expression_may_name() -> None:
    assert unknown('p2pfs_pool_peers{state="up", job="x"} + rate(p2pfs_mount_operation_seconds_bucket[1m])') == []
    assert unknown('p2pfs_pool_peers{zone="x"} + p2pfs_never + p2pfs_mount_operation_seconds') == [
        "p2pfs_pool_peers{zone}",
        "p2pfs_never",
        "p2pfs_mount_operation_seconds",
    ]


def test_every_alert_asks_for_what_there_is() -> None:
    """`promtool check rules` says more; what it says is not about names."""
    alerts = re.split(r"^      - alert: ", ALERTS, flags=re.MULTILINE)[1:]
    assert len(alerts) > 10
    for alert in alerts:
        (expression,) = re.findall(r"^        expr: (.+)$", alert, flags=re.MULTILINE)
        assert unknown(expression) == [], alert
        assert expression.count("(") == expression.count(")")
        assert re.search(r"^        labels: \{severity: (warning|critical)\}$", alert, flags=re.MULTILINE), alert
        assert re.search(r'^          summary: ".+"$', alert, flags=re.MULTILINE), alert
        assert re.search(r'^          description: ".+"$', alert, flags=re.MULTILINE), alert


def test_every_panel_asks_for_what_there_is_and_they_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    asked = 0
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            asked += 1
            assert unknown(target["expr"]) == [], panel["title"]
    assert asked > 30
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
