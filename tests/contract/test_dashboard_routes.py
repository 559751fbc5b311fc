"""Every route of the dashboard × everybody who must not get in: strangers learn nothing, other sites do nothing."""

import html
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from dashboards import Browser, Site, site
from plugins.checklogs import Claims

from p2pfs.coordinator.dashboard.application import COOKIE
from p2pfs.coordinator.dashboard.guard import HEADERS
from p2pfs.errors import Denied
from p2pfs.types import Role
from p2pfs.wire.dashboard import LoginLink
from p2pfs.wire.jobs import JobAction, JobKind, JobState
from p2pfs.wire.routes import DASHBOARD_ROUTES, Route

pytestmark = pytest.mark.l1

FILLED = {
    "{chart}": "copies",
    "{node}": "cd" * 16,
    "{job}": "7",
    "{file}": "dashboard.css",
    "{invite}": "A" * 43,
    "{page}": "nothing",
    "{below}": "of",
    "{more}": "this",
}
DOOR = {"login_form", "login", "static"}
"""All that answers whoever is not logged in."""
POSTS = [route for route in DASHBOARD_ROUTES if route.method == "POST"]
INSIDE = [route for route in DASHBOARD_ROUTES if route.name not in DOOR]
NAMES = ("root@server", "test", "demo")


def path_of(route: Route) -> str:
    path = route.path.replace("{action}", "pause" if "job" in route.name else "drain")
    for parameter, value in FILLED.items():
        path = path.replace(parameter, value)
    assert "{" not in path
    return path


async def ask(browser: Browser, route: Route, **headers: str) -> httpx.Response:
    send = browser.get if route.method == "GET" else browser.post
    return await send(path_of(route), **headers)


def assert_nothing_told(answer: httpx.Response) -> None:
    """Sent to the login, or refused with an empty page."""
    assert (answer.status_code, answer.headers.get("location")) in ((303, "/login"), (401, None))
    assert answer.text == ""
    assert "set-cookie" not in answer.headers


@pytest.fixture
async def there(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as made:
        yield made


async def test_who_is_not_logged_in_learns_nothing(there: Site) -> None:
    for route in INSIDE:
        browser = there.browser()
        assert_nothing_told(await ask(browser, route))
        answer = await ask(browser, route, hx_request="true")
        assert (answer.status_code, answer.text) == (401, "")
        browser.cookie = "A" * 43
        assert_nothing_told(await ask(browser, route))


async def test_a_session_ends(there: Site) -> None:
    browsers = [await there.admin() for _ in INSIDE]
    for browser in browsers:
        assert (await browser.get("/")).status_code == 200
    now = there.dashboard.doors._now
    there.dashboard.doors._now = lambda: now() + there.dashboard.doors.session_s
    for browser, route in zip(browsers, INSIDE, strict=True):
        assert_nothing_told(await ask(browser, route))


async def test_a_revoked_admins_browser_is_out_at_once(there: Site, claim_logs: Claims) -> None:
    claim_logs("revoked bob@laptop", count=1)
    node, credentials = await there.pool.join("bob@laptop", Role.ADMIN)
    async with there.pool.client(credentials) as client:

        async def link() -> LoginLink:
            return await client.call(there.pool.endpoint, "POST", "/dashboard/logins", None, LoginLink)

        browsers = [there.browser() for _ in INSIDE]
        for browser in browsers:
            await browser.log_in((await link()).secret)
            assert "bob@laptop" in (await browser.get("/")).text
        unused = await link()
    await there.pool.running.services.membership.revoke(node)
    for browser, route in zip(browsers, INSIDE, strict=True):
        assert_nothing_told(await ask(browser, route))
    assert (await there.browser().log_in(unused.secret)).status_code == 403


async def test_a_form_on_another_site_does_nothing(there: Site) -> None:
    browser = await there.admin()
    for route in POSTS:
        for origin in ("https://evil.example", "null", "", f"http://{there.address}", f"https://{there.address}.x"):
            answer = await ask(browser, route, origin=origin)
            assert (answer.status_code, "page of the dashboard" in answer.text) == (403, True), origin
        answer = await ask(browser, route, sec_fetch_site="cross-site")
        assert answer.status_code == 403
    assert (await browser.get("/")).status_code == 200  # still logged in


async def test_a_form_without_the_sessions_token_does_nothing(there: Site) -> None:
    browser, other = await there.admin(), await there.admin()
    for route in POSTS:
        for token in ("", "A" * 43, await other.csrf()) if route.name not in DOOR else ():
            answer = await browser.post(path_of(route), {"csrf": token, "name": "eve@laptop", "role": "admin"})
            assert answer.status_code == 403
            assert "not of this session" in answer.text
    assert (await browser.get("/")).status_code == 200


async def test_a_foreign_name_gets_no_page(there: Site) -> None:
    """DNS rebinding: a site's own name that leads here."""
    browser = await there.admin()
    for host in ("evil.example", "evil.example:9472", "127.0.0.1.evil.example", "localhost.evil.example", "x@y", ""):
        browser.origin = f"https://{host}"
        for route in DASHBOARD_ROUTES:
            answer = await ask(browser, route, host=host)
            assert answer.status_code in (400, 421), host
            assert not any(name in answer.text for name in NAMES)


async def test_every_answer_ties_the_browser_down(there: Site) -> None:
    for route in DASHBOARD_ROUTES:
        for browser in (there.browser(), await there.admin()):
            answer = await ask(browser, route)
            assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS
            kept = answer.headers["cache-control"]
            assert kept.startswith("private") if route.name == "static" else kept == "no-store"


async def test_policy_allows_nothing_inline_and_nothing_from_elsewhere(there: Site) -> None:
    policy = HEADERS["content-security-policy"]
    assert "unsafe" not in policy
    assert policy.startswith("default-src 'none'")
    browser = await there.admin()
    for route in DASHBOARD_ROUTES:
        if route.method == "GET" and route.name not in ("static", "chart", "ask_node"):
            page = (await browser.get(path_of(route))).text
            assert not re.search(r"\sstyle=|<style|\son[a-z]+=|<script>|javascript:", page), route.name
            assert not re.findall(r'(?:src|href|action)="(?!/[^/]|#)[^"]+"', page.replace('href="/"', "")), route.name


async def test_a_link_is_good_once(there: Site) -> None:
    link = await there.link()
    answer = await there.browser().log_in(link.secret)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith(f"{COOKIE}=")
    for word in ("HttpOnly", "Secure", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert word in cookie
    again = there.browser()
    answer = await again.log_in(link.secret)
    assert (answer.status_code, again.cookie) == (403, "")
    assert "used or is too old" in answer.text


async def test_a_link_grows_old(there: Site) -> None:
    link, now = await there.link(), there.dashboard.doors._now
    there.dashboard.doors._now = lambda: now() + link.lifetime_s
    assert (await there.browser().log_in(link.secret)).status_code == 403


async def test_only_admins_get_links(there: Site) -> None:
    _, credentials = await there.pool.join("anna@laptop", Role.CLIENT, Role.PEER)
    async with there.pool.client(credentials) as client:
        with pytest.raises(Denied, match="role admin"):
            await client.call(there.pool.endpoint, "POST", "/dashboard/logins", None, LoginLink)


async def test_an_admins_certificate_lets_in_and_no_other(there: Site) -> None:
    for roles, is_let_in in (((Role.ADMIN,), True), ((Role.CLIENT, Role.PEER), False)):
        _, credentials = await there.pool.join(f"anna@{roles[0]}", *roles)
        browser = there.browser(credentials)
        assert_nothing_told(await browser.get("/"))  # it is asked whether it wants to
        assert "with this browser" in (await browser.get("/login")).text
        answer = await browser.post("/login", {"certificate": "yes"})
        assert (answer.status_code == 303, bool(browser.cookie)) == (is_let_in, is_let_in)
        if is_let_in:
            assert f"anna@{roles[0]}" in (await browser.get("/")).text
    assert (await there.browser().post("/login", {"certificate": "yes"})).status_code == 403


async def test_who_logs_out_is_out_though_the_cookie_was_copied(there: Site) -> None:
    browser = await there.admin()
    cookie = browser.cookie
    assert (await browser.act("/logout")).headers["location"] == "/login"
    browser.cookie = cookie
    assert_nothing_told(await browser.get("/"))


async def test_strangers_do_not_even_learn_what_there_is(there: Site) -> None:
    browser = there.browser()
    known = [path_of(route) for route in INSIDE if route.method == "GET" and route.name != "chart"]
    told = {path: await browser.get(path) for path in (*known, "/nope", "/status", "/join", "/a/b", "/nodes/x/grow")}
    assert {(answer.status_code, answer.headers["location"], answer.text) for answer in told.values()} == {
        (303, "/login", "")
    }
    for path in ("/static/..%2flogin", "/static/%2e%2e%2fservice.py", "/a/b/c/d"):
        answer = await browser.get(path)
        assert answer.status_code in (303, 401, 404)
        assert answer.text == ""
    door = (await browser.get("/login")).text
    assert not any(name in door for name in NAMES)


async def test_the_log_holds_no_secret(there: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    link = await there.link()
    browser = there.browser()
    await browser.log_in(link.secret)
    await there.browser().log_in(link.secret)
    csrf = await browser.csrf()
    answer = await browser.act("/invites", name="anna@laptop", role="client", lifetime="3600")
    invite = re.search(r'id="invite-text">([^<]+)<', (await browser.get(answer.headers["location"])).text)
    assert invite is not None
    told = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("p2pfs"))
    assert "root@server logged in" in told
    for secret in (link.secret, browser.cookie, csrf, invite[1]):
        assert secret not in told


async def test_an_invite_is_shown_once_to_who_made_it(there: Site) -> None:
    browser, other = await there.admin(), await there.admin()
    made = await browser.act("/invites", name="anna@laptop", role="client", lifetime="3600")
    assert (made.status_code, made.headers["location"].startswith("/invites/")) == (303, True)
    assert "invite-text" in (await browser.get(made.headers["location"])).text
    for _ in range(2):  # loading it anew shows it no more, and makes no other
        again = await browser.get(made.headers["location"])
        assert (again.status_code, "shown once" in again.text) == (404, True)
    made = await browser.act("/invites", name="anna@nas", role="client", lifetime="3600")
    assert "invite-text" not in (await other.get(made.headers["location"])).text


async def test_a_form_that_is_not_taken_keeps_what_was_typed(there: Site) -> None:
    browser = await there.admin()
    typed = {"name": 'Anna "x"', "zone": "attic", "capacity": "200G", "lifetime": "3600", "role": "admin"}
    for wrong in (typed, typed | {"name": "anna@nas", "capacity": "much"}):
        answer = await browser.act("/invites", **wrong)
        assert answer.status_code == 422
        assert 'role="alert"' in answer.text
        for kept in (html.escape(wrong["name"]), "attic", wrong["capacity"]):
            assert f'value="{kept}"' in answer.text
        assert re.findall(r'value="(\w+)" checked', answer.text) == ["admin"]
        assert '<option value="3600" selected>' in answer.text


async def test_an_unknown_page_says_so_to_who_is_logged_in(there: Site) -> None:
    browser = await there.admin()
    for path in ("/nope", "/a/b", "/nodes/x/y/z"[:-2]):
        answer = await browser.get(path)
        assert (answer.status_code, '<nav aria-label="Pages">' in answer.text) == (404, True)


async def test_who_is_about_to_revoke_themselves_is_told(there: Site) -> None:
    node, credentials = await there.pool.join("bob@laptop", Role.ADMIN)
    browser = there.browser(credentials)
    await browser.post("/login", {"certificate": "yes"})
    other, _ = await there.pool.join("anna@laptop", Role.CLIENT)
    assert "your own node" in (await browser.get(f"/nodes/{node}/revoke")).text
    assert "your own node" not in (await browser.get(f"/nodes/{other}/revoke")).text


async def test_an_admin_revokes_a_node(there: Site, claim_logs: Claims) -> None:
    claim_logs("revoked anna@laptop", count=1)
    node, _ = await there.pool.join("anna@laptop", Role.CLIENT)
    browser = await there.admin()
    assert "Revoke anna@laptop" in (await browser.get(f"/nodes/{node}/revoke")).text
    answer = await browser.act(f"/nodes/{node}/revoke")
    assert (answer.status_code, answer.headers["location"]) == (303, "/members")
    assert [one.revoked for one in there.pool.running.services.membership.nodes() if one.node == node] == [True]
    assert "revoked" in (await browser.get("/members")).text


async def test_an_admin_acts_on_a_job(there: Site) -> None:
    node, _ = await there.pool.join("anna@nas", Role.PEER)
    services, browser = there.pool.running.services, await there.admin()
    job = services.jobs.open(JobKind.DRAIN, services.roster.nodes[node].id)
    for action, state in (
        (JobAction.PAUSE, JobState.PAUSED), (JobAction.RESUME, JobState.RUNNING), (JobAction.RETRY, JobState.RUNNING),
        (JobAction.CANCEL, JobState.CANCELLED),
    ):  # fmt: skip
        answer = await browser.act(f"/jobs/{job.row.id}/{action}")
        assert (answer.status_code, answer.headers["location"]) == (303, "/jobs")
        (shown,) = (one for one in services.jobs.listed(services.roster.name_of) if one.id == job.row.id)
        assert shown.state == state, action
    assert f">{JobState.CANCELLED}<" in (await browser.get("/jobs")).text
    refused = await browser.act(f"/jobs/{job.row.id}/pause")  # it is over
    assert refused.status_code >= 400


async def test_the_coordinators_own_port_has_no_page(there: Site) -> None:
    browser = Browser(there.pool.running.record.addresses[0])
    for path in ("/", "/login", "/static/dashboard.css"):
        answer = await browser.get(path)
        assert (answer.status_code, answer.text) == (401, "")
    await browser.http.aclose()


async def test_nodes_see_each_other_nowhere_on_it(there: Site) -> None:
    """Its certificate is no node's, and its server knows none of the coordinator's routes."""
    answer = await there.browser(there.pool.credentials).get("/status")
    assert (answer.status_code, answer.content) == (303, b"")


def test_every_page_asks_for_a_session_itself() -> None:
    assert all(route.anonymous and not route.roles for route in DASHBOARD_ROUTES)
    assert len({(route.method, route.path) for route in DASHBOARD_ROUTES}) == len(DASHBOARD_ROUTES)
