"""The dashboard of a real pool in a real Chromium: pages, live updates, an action, and who must stay out."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docs_blocks
import pytest
from pools import DemoPool, demo_pool

from p2pfs import exitcodes
from p2pfs.coordinator.dashboard import assets
from p2pfs.coordinator.dashboard.application import COOKIE
from p2pfs.coordinator.dashboard.layout import PAGES
from p2pfs.coordinator.files import CoordinatorFiles
from p2pfs.meta.rounds import Rounds
from p2pfs.runtime.home import NodeHome
from p2pfs.types import MIB

playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 30_000
FLAGS = ["--no-sandbox", "--host-resolver-rules=MAP rebound.example 127.0.0.1"]

pytestmark = [
    pytest.mark.l5,
    pytest.mark.skipif(not os.access(CHROMIUM, os.X_OK), reason="needs Debian's chromium: packaging/system-packages"),
]


class Look:
    """One browser, which notes everything that a page should never cause."""

    def __init__(self, browser: Any, **options: Any) -> None:  # noqa: ANN401 - playwright's
        self.context = browser.new_context(ignore_https_errors=True, **options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("request", self._request)

    def _request(self, request: Any) -> None:  # noqa: ANN401
        if not request.url.startswith("https://127.0.0.1:"):
            self.complaints.append(f"outside: {request.url}")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DemoPool]:
    with demo_pool(tmp_path_factory.mktemp("dashboard"), settings={"heartbeat": "1s", "suspect": "2s"}) as made:
        (made.mount / "file").write_bytes(os.urandom(3 * MIB))
        remember(made)
        yield made


def remember(pool: DemoPool) -> None:
    """An hour in which every chunk had two copies: the coordinator looks once a minute."""
    rounds = Rounds(CoordinatorFiles(NodeHome(pool.root / "coordinator")).history)
    for minute in range(1, 60):
        rounds.add(time.time() - 60 * minute, {"chunks.copies.2": 3.0, "space.used": 6e6})
    rounds.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def look(pool: DemoPool, chromium: Any) -> Iterator[Look]:  # noqa: ANN401
    """A browser that is logged in."""
    seen = Look(chromium)
    enter(seen.page, link_of(pool))
    yield seen
    assert seen.complaints == []
    seen.context.close()


def link_of(pool: DemoPool) -> str:
    url: str = json.loads(pool.p2pfs("dashboard", "--json").stdout)["url"]
    return url


def enter(page: Any, url: str) -> None:  # noqa: ANN401
    page.goto(url)
    page.get_by_role("heading", name="Overview").wait_for()


def base(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.fixture
def scripts() -> None:
    if not all((assets.VENDOR / name).exists() for name in assets.FOREIGN):
        pytest.skip("htmx and uPlot are not here: run packaging/vendor-web")


@pytest.mark.usefixtures("scripts")
def test_every_page_shows_the_pool_and_the_keyboard_reaches_it(look: Look) -> None:
    page = look.page
    for _, path, words in PAGES:
        page.get_by_role("navigation", name="Pages").get_by_role("link", name=words).press("Enter")
        page.wait_for_url(f"**{path}")
        page.get_by_role("heading", name=words, level=1).wait_for()
        assert page.locator("table caption, .empty, .tiles").count() > 0, words
    page.goto(base(page.url) + "/peers")
    for number in (1, 2, 3):
        page.get_by_role("rowheader", name=f"demo@peer-{number}").wait_for()
    assert page.locator(".map .peer.up").count() == 3
    page.goto(base(page.url) + "/data")
    page.locator("#chart-copies canvas").wait_for()  # uPlot drew what was measured
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    assert "#" not in page.url


@pytest.mark.usefixtures("scripts")
def test_a_peer_that_stops_is_seen_without_loading_the_page_anew(pool: DemoPool, look: Look) -> None:
    page = look.page
    page.goto(base(page.url) + "/peers")
    page.evaluate("window.isTheSamePage = true")
    page.locator("#offers-of-peers summary").click()
    page.locator(".map .peer.up", has_text="demo@peer-3").wait_for()
    page.get_by_role("link", name="Drain demo@peer-1").focus()
    pool.signal("peer-3", signal.SIGSTOP)
    try:
        page.locator(".map .peer.suspect", has_text="demo@peer-3").wait_for()
    finally:
        pool.signal("peer-3", signal.SIGCONT)
    page.locator(".map .peer.up", has_text="demo@peer-3").wait_for()
    assert page.evaluate("window.isTheSamePage") is True
    assert page.evaluate("document.activeElement.id").startswith("drain-")
    assert page.locator("#offers-of-peers[open]").count() == 1


@pytest.mark.usefixtures("scripts")
def test_an_admin_drains_a_peer_and_calls_it_off(pool: DemoPool, look: Look) -> None:
    page = look.page
    page.goto(base(page.url) + "/peers")
    page.get_by_role("link", name="Drain demo@peer-2").click()
    page.get_by_text("must be copied to the 2 peers that stay").wait_for()
    page.get_by_role("button", name="Drain demo@peer-2").click()
    page.get_by_role("button", name="Let demo@peer-2 stay").click()
    page.get_by_role("link", name="Drain demo@peer-2").wait_for()
    assert [peer["leaving"] for peer in pool.status()["peers"]] == [False] * 3


def test_an_invite_made_here_lets_a_machine_in(pool: DemoPool, look: Look, tmp_path: Path) -> None:
    page = look.page
    page.goto(base(page.url) + "/members")
    page.get_by_label("Owner and machine").fill("anna@laptop")
    page.get_by_role("checkbox", name="peer").uncheck()
    page.get_by_role("button", name="Make an invite").click()
    invite = page.locator("#invite-text").inner_text()
    (tmp_path / "invite").write_text(invite)
    pool.p2pfs("join", str(tmp_path / "invite"), home=tmp_path / "laptop")
    page.get_by_role("link", name="Back to members").click()
    page.get_by_role("rowheader", name="anna@laptop").wait_for()
    pool.p2pfs("volume", "list", home=tmp_path / "laptop")
    page.get_by_role("link", name="Revoke anna@laptop").click()
    page.get_by_role("button", name="Revoke anna@laptop").click()
    page.wait_for_url("**/members")
    page.get_by_role("row", name="anna@laptop").get_by_text("revoked").wait_for()
    pool.p2pfs("volume", "list", home=tmp_path / "laptop", expect=exitcodes.DENIED)


@pytest.mark.parametrize(
    ("size", "scheme"), [((360, 740), "light"), ((360, 740), "dark"), ((1280, 800), "dark")], ids=str
)
def test_every_page_fits_its_screen_and_can_be_read_and_touched(
    pool: DemoPool,
    chromium: Any,  # noqa: ANN401
    size: tuple[int, int],
    scheme: str,
) -> None:
    """On a phone nothing is scrolled sideways; in the dark text is still lighter than what it stands on."""
    width, height = size
    seen = Look(chromium, viewport={"width": width, "height": height}, color_scheme=scheme)
    enter(seen.page, link_of(pool))
    for _, path, words in PAGES:
        seen.page.goto(base(seen.page.url) + path)
        seen.page.get_by_role("heading", name=words, level=1).wait_for()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width, words
        text, ground = (seen.page.evaluate(f"getComputedStyle(document.body).{name}") for name in COLOURS)
        assert (brightness(text) > brightness(ground)) is (scheme == "dark"), words
        touched = seen.page.locator("main button:visible, main td a:visible, nav a:visible").all()
        small = {one.inner_text(): box["height"] for one in touched if (box := one.bounding_box())["height"] < LEAST_PX}
        assert small == {}, words
    assert seen.complaints == []
    seen.context.close()


COLOURS = ("color", "backgroundColor")
LEAST_PX = 24
"""What a finger, or a hand that shakes, can hit: WCAG 2.2, 2.5.8."""


def brightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


@pytest.mark.usefixtures("scripts")
def test_a_page_whose_session_ends_goes_to_the_login_by_itself(look: Look) -> None:
    other = look.context.new_page()
    other.goto(base(look.page.url) + "/jobs")
    other.get_by_role("button", name="Log out").click()
    look.page.wait_for_url("**/login")
    look.complaints = [one for one in look.complaints if "401" not in one]  # Chromium's own words about that answer


BY_CERTIFICATE = "Log in with this browser's certificate"


def test_an_admins_browser_needs_no_link(pool: DemoPool, chromium: Any) -> None:  # noqa: ANN401
    """It has the certificate of an admin's node, made into what a browser imports as the page on the dashboard says."""
    target = base(link_of(pool))
    home = pool.root / "mount"
    page = docs_blocks.ROOT / "docs" / "dashboard.md"
    [command] = [block.text for block in docs_blocks.blocks(page) if "pkcs12" in block.text]
    # in a session of its own there is no terminal to ask at
    answers = "only here\nonly here\n"
    subprocess.run(
        command, shell=True, cwd=home, input=answers, text=True, check=True, start_new_session=True, timeout=30
    )
    shown = {"origin": target, "pfxPath": str(home / "admin.p12"), "passphrase": "only here"}
    seen = Look(chromium, client_certificates=[shown])
    seen.page.goto(target + "/login")
    seen.page.get_by_role("button", name=BY_CERTIFICATE).click()
    seen.page.get_by_role("heading", name="Overview").wait_for()
    assert seen.complaints == []
    seen.context.close()


def test_a_node_that_is_no_admin_gets_no_further(pool: DemoPool, chromium: Any) -> None:  # noqa: ANN401
    target = base(link_of(pool))
    tls = NodeHome(pool.root / "peer-1")
    shown = {"origin": target, "certPath": str(tls.certificate_path), "keyPath": str(tls.key_path)}
    seen = Look(chromium, client_certificates=[shown])
    seen.page.goto(target + "/login")
    seen.page.get_by_role("button", name=BY_CERTIFICATE).click()
    seen.page.get_by_role("alert").get_by_text("no certificate of an admin").wait_for()
    assert seen.context.cookies() == []
    seen.context.close()


def test_intruders_stay_out(pool: DemoPool, chromium: Any) -> None:  # noqa: ANN401
    owner, stranger = Look(chromium), Look(chromium)
    url = link_of(pool)
    enter(owner.page, url)
    [cookie] = owner.context.cookies()
    assert (cookie["name"], cookie["httpOnly"], cookie["secure"], cookie["sameSite"]) == (COOKIE, True, True, "Strict")
    # No cookie, and a link that was followed.
    stranger.page.goto(base(url) + "/peers")
    assert stranger.page.url.endswith("/login")
    stranger.page.goto("about:blank")
    stranger.page.goto(url)
    stranger.page.get_by_role("alert").get_by_text("used or is too old").wait_for()
    assert stranger.context.cookies() == []
    # A foreign site in the owner's own browser: its form is refused, whatever it knows.
    owner.context.route(
        "https://evil.example/", lambda route: route.fulfill(body=forged(base(url)), content_type="text/html")
    )
    owner.page.goto("https://evil.example/")
    with owner.page.expect_response("**/invites") as refused:
        owner.page.get_by_role("button").click()
    assert refused.value.status == 403
    # A foreign name that leads here.
    answer = stranger.page.goto(f"https://rebound.example:{urlsplit(url).port}/login")
    assert answer.status == 421
    assert stranger.page.locator("form").count() == 0
    owner.context.close()
    stranger.context.close()


def forged(target: str) -> str:
    fields = '<input name="name" value="eve@laptop"><input name="role" value="admin">'
    return f'<form method="post" action="{target}/invites">{fields}<button>Win</button></form>'


@pytest.mark.usefixtures("scripts")  # which are sent, and not run
def test_without_scripts_everything_is_there_and_says_so(pool: DemoPool, chromium: Any) -> None:  # noqa: ANN401
    seen = Look(chromium, java_script_enabled=False)
    url = link_of(pool)
    seen.page.goto(base(url) + "/login")
    seen.page.get_by_label("Or paste what follows").fill(url.partition("#")[2])
    seen.page.get_by_role("button", name="Log in").click()
    seen.page.get_by_role("heading", name="Overview").wait_for()
    seen.page.goto(base(url) + "/data")
    assert seen.page.locator("meta[http-equiv=refresh]").count() == 1
    seen.page.locator("#chart-copies details summary").click()
    seen.page.locator("#chart-copies").get_by_role("columnheader", name="2 copies").wait_for()
    seen.page.get_by_role("button", name="Log out").click()
    seen.page.get_by_role("heading", name="Log in").wait_for()
    assert seen.complaints == []
    seen.context.close()
