"""The dashboard's parts: markup that escapes, names that are ours, doors that close, a certificate that lasts."""

import json
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from coordination import pool
from dashboards import site

from p2pfs.coordinator.dashboard import charts
from p2pfs.coordinator.dashboard.assets import Assets, load
from p2pfs.coordinator.dashboard.certificate import LIFETIME_S, RENEW_BEFORE_S, OwnFiles
from p2pfs.coordinator.dashboard.doors import LINK_S, MAX_LINKS, MAX_SESSIONS, Doors
from p2pfs.coordinator.dashboard.figures import MOST_ROWS, data_table
from p2pfs.coordinator.dashboard.guard import is_ours, is_own_page
from p2pfs.coordinator.dashboard.layout import Frame, document, live, mark
from p2pfs.coordinator.dashboard.markup import Html, a, div, input_, join, p
from p2pfs.coordinator.dashboard.pages import data, jobs, members, overview, peers, usefulness, volumes
from p2pfs.errors import Denied
from p2pfs.net.asgi import Message, Receive, Send, asgi_handler
from p2pfs.net.identity import identity_of
from p2pfs.net.messages import Request
from p2pfs.types import NodeId, Role
from p2pfs.wire.jobs import JobInfo
from p2pfs.wire.routes import Route

pytestmark = pytest.mark.l0

EVIL = """<script>alert(1)</script>"'&"""
NODE = NodeId("ab" * 16)


# ---- markup ---------------------------------------------------------------------------------------------------------


def test_what_is_not_markup_is_escaped_wherever_it_stands() -> None:
    made = div(EVIL, [EVIL, p(EVIL)], None, 7, title=EVIL, data_title=EVIL)
    assert "<script>" not in made
    assert made.count("&lt;script&gt;") == 5
    assert made.count('"') == 4  # those around two attributes


def test_markup_goes_through_as_it_is() -> None:
    assert join(p("x"), Html("<hr>")) == "<p>x</p><hr>"
    assert input_(required=True, disabled=False, value=None, class_="a") == '<input required class="a">'
    assert a("x", href="/", aria_current="page") == '<a href="/" aria-current="page">x</a>'


async def test_names_that_members_chose_are_text_on_every_page(tmp_path: Path) -> None:
    """Versions, zones and errors come from peers and admins: whatever they are."""
    async with pool(tmp_path) as made:
        [joined] = await made.peers(1, version=EVIL)
        frame = Frame(load(), EVIL, EVIL, "token")
        report = await made.services.status.report(made.identity())
        job = JobInfo(7, EVIL, EVIL, EVIL, 1, 2, 3, 4, 5.0, 6.0, 7.0, None, EVIL)
        shown = [
            overview.content(frame, report),
            peers.content(frame, report),
            data.content(report),
            volumes.content(report),
            jobs.content(frame, [job], lambda _kind, _action: True, 0.0),
            usefulness.content(await made.services.usefulness.report()),
            members.content(made.services.membership.nodes()),
            members.invited(EVIL, EVIL, 60.0),
            members.refused(EVIL, "/"),
        ]
        assert joined.name in shown[1]
        page = document(frame, "overview", EVIL, *shown)
        assert "<script>" not in page
        assert "alert(1)" in page


# ---- who asks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:9472", "[::1]:80", "10.1.2.3", "localhost:1", "NAS.lan:2"])
def test_addresses_and_names_that_were_told_are_ours(host: str) -> None:
    assert is_ours(host, {"nas.lan"})


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "nas.lan.evil", "xnas.lan", "localhost.evil", "127.0.0.1.evil", "a@nas.lan", "1.2.3", "[::1"],
)
def test_other_names_are_not(host: str) -> None:
    assert not is_ours(host, {"nas.lan"})


def test_a_form_says_where_it_comes_from() -> None:
    assert is_own_page({"host": "a:1", "origin": "https://a:1"})
    assert is_own_page({"host": "a:1", "origin": "https://a:1", "sec-fetch-site": "same-origin"})
    for origin in ("https://a", "https://a:2", "http://a:1", "null", ""):
        assert not is_own_page({"host": "a:1", "origin": origin})
    assert not is_own_page({"host": "a:1"})
    assert not is_own_page({"host": "a:1", "origin": "https://a:1", "sec-fetch-site": "same-site"})


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_links_and_sessions_are_bounded_and_the_oldest_go() -> None:
    doors = Doors(session_s=60, is_admin=lambda _node: True, now=Clock())
    links = [doors.new_link(NODE) for _ in range(MAX_LINKS + 1)]
    sessions = [doors.open(NODE) for _ in range(MAX_SESSIONS + 1)]
    assert repr(doors) == f"Doors({MAX_LINKS} links, {MAX_SESSIONS} sessions)"
    assert doors.follow(links[0]) is None
    assert doors.session(sessions[0]) is None
    assert doors.follow(links[-1]) is not None
    assert doors.session(sessions[-1]) is not None


def test_a_link_opens_once_and_not_for_long() -> None:
    clock = Clock()
    doors = Doors(session_s=60, is_admin=lambda _node: True, now=clock)
    link, late = doors.new_link(NODE), doors.new_link(NODE)
    assert doors.follow(link + "x") is None
    session = doors.follow(link)
    assert session is not None
    assert doors.follow(link) is None
    clock.now += LINK_S
    assert doors.follow(late) is None
    assert doors.session(session) is None  # older than a minute


def test_no_secret_is_kept() -> None:
    doors = Doors(session_s=60, is_admin=lambda _node: True, now=Clock())
    link, session = doors.new_link(NODE), doors.open(NODE)
    kept = repr([vars(one) for one in (doors._links, doors._sessions)])
    assert link not in kept
    assert session not in kept


# ---- its certificate ------------------------------------------------------------------------------------------------


def test_a_certificate_is_kept_until_it_ends_or_no_longer_fits(tmp_path: Path) -> None:
    files, hosts = OwnFiles(tmp_path), ["localhost", "127.0.0.1"]
    assert files.renew(hosts, 1e9)
    first = files.fingerprint()
    assert files.key.stat().st_mode & 0o777 == 0o600
    assert not files.renew(hosts[::-1], 1e9)
    assert files.renew([*hosts, "nas.lan"], 1e9)
    assert files.renew(hosts, 1e9)
    assert files.fingerprint() != first
    assert not files.renew(hosts, 1e9 + LIFETIME_S - RENEW_BEFORE_S - 7200)
    assert files.renew(hosts, 1e9 + LIFETIME_S - RENEW_BEFORE_S)
    files.certificate.write_bytes(b"damaged")
    assert files.renew(hosts, 1e9)


@pytest.mark.parametrize("damage", ["emptied", "another"])
def test_a_key_that_is_not_the_certificates_is_made_anew(tmp_path: Path, damage: str) -> None:
    files, other = OwnFiles(tmp_path), OwnFiles(tmp_path / "other")
    other.directory.mkdir()
    for one in (files, other):
        assert one.renew(["localhost"], 1e9)
    files.key.write_bytes(other.key.read_bytes() if damage == "another" else b"")
    assert files.renew(["localhost"], 1e9)
    assert not files.renew(["localhost"], 1e9)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(files.certificate, files.key)


def test_it_is_no_nodes_certificate(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    files = OwnFiles(tmp_path)
    files.renew(["localhost"], 1e9)
    made = x509.load_pem_x509_certificate(files.certificate.read_bytes())
    with pytest.raises(Denied):
        identity_of(made.public_bytes(Encoding.DER))


# ---- pages ----------------------------------------------------------------------------------------------------------


async def test_a_part_that_did_not_change_is_not_sent_again(tmp_path: Path) -> None:
    async with site(tmp_path) as there:
        browser = await there.admin()
        page = await browser.get("/peers")
        again = await browser.get("/peers", hx_request="true")
        assert again.text.startswith('<div id="live"')
        assert again.text in page.text
        seen = again.text.partition("?seen=")[2].partition('"')[0]
        assert (await browser.get(f"/peers?seen={seen}", hx_request="true")).status_code == 204
        await there.pool.join("anna@nas", Role.PEER)
        assert (await browser.get(f"/members?seen={seen}", hx_request="true")).status_code == 200


def test_without_the_scripts_of_others_pages_reload_themselves_and_say_so() -> None:
    assets = load()
    bare = Assets(assets.files, is_whole=False)
    page = document(Frame(bare, "test", "root@server", ""), "data", "Data", live("/data", p("x")), refreshes=True)
    assert "<script" not in page
    assert '<meta http-equiv="refresh"' in page
    assert "not installed" in page
    assert mark(p("x")) in page


def test_a_chart_says_the_same_drawn_and_as_a_table() -> None:
    known = charts.charts(replicas=2)
    found = {"chunks.copies.2": [(60.0, 5.0), (120.0, 7.0)], "chunks.copies.1": [(120.0, 2.0)], "chunks.copies.0": []}
    drawn = charts.chart_data(known["copies"], found, 0.0, 180.0)
    assert json.loads(json.dumps(drawn)) == {
        "span": [0.0, 180.0],
        "unit": "count",
        "stacked": True,
        "times": [60.0, 120.0],
        "lines": [
            {"words": "1 copy", "kind": "last", "values": [None, 2.0]},
            {"words": "2 copies", "kind": "enough", "values": [5.0, 7.0]},
        ],
    }
    table = charts.chart_figure(known["copies"], found, span="hour", is_drawn=False)
    for text in ("1 copy", "2 copies", ">5<", ">7<", ">—<"):
        assert text in table
    assert "no copy" not in table


def test_a_large_pool_is_shown_in_part_and_not_even_drawn_beyond_that() -> None:
    drawn: list[int] = []

    def rows() -> Iterator[tuple[str, str]]:
        for number in range(1_000_000):
            drawn.append(number)
            yield f"peer {number}", "up"

    table = data_table("All peers", ("peer", "state"), rows())
    assert table.count("<tr>") == MOST_ROWS + 1
    assert "Commands show all" in table
    assert len(drawn) == MOST_ROWS + 1
    assert "Commands show all" not in data_table("All peers", ("peer", "state"), [("a", "b")] * MOST_ROWS)


# ---- the adapter ----------------------------------------------------------------------------------------------------

ROUTE = Route("page", "POST", "/things/{thing}", frozenset(), anonymous=True)


async def test_an_application_gets_a_request_and_its_answer_comes_whole() -> None:
    seen: list[Message] = []

    async def application(scope: Message, receive: Receive, send: Send) -> None:
        seen.extend((scope, await receive()))
        await send(
            {"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/x"), (b"a", b"b")]}
        )
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    request = Request(ROUTE, {"thing": "a%20b"}, query="x=1", headers={"host": "h"})
    response = await asgi_handler(application, answer_bytes=6)(request)
    assert (response.status, b"".join(response.parts), response.content_type) == (201, b"onetwo", "text/x")
    assert response.headers == (("a", "b"),)
    scope = seen[0]
    assert (scope["method"], scope["path"], scope["query_string"]) == ("POST", "/things/a b", b"x=1")
    with pytest.raises(RuntimeError, match="more than 5"):
        await asgi_handler(application, answer_bytes=5)(request)


async def test_an_application_that_does_not_answer_is_an_error() -> None:
    async def silent(_scope: Message, _receive: Receive, _send: Send) -> None:
        return

    with pytest.raises(RuntimeError, match="did not answer"):
        await asgi_handler(silent, answer_bytes=1)(Request(ROUTE, {"thing": "x"}))
