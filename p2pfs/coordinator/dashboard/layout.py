"""The frame of every page: head, navigation, and the part that renews itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from p2pfs.coordinator.dashboard.assets import Assets
from p2pfs.coordinator.dashboard.markup import (
    Child,
    Html,
    a,
    button,
    div,
    element,
    form,
    h1,
    input_,
    join,
    li,
    link,
    main,
    meta,
    nav,
    p,
    script,
    span,
    title,
    ul,
)

POLL_S: Final = 3
REFRESH_S: Final = 15
"""Without scripts."""
PAGES: Final = (
    ("overview", "/", "Overview"),
    ("peers", "/peers", "Peers"),
    ("data", "/data", "Data"),
    ("volumes", "/volumes", "Volumes"),
    ("jobs", "/jobs", "Jobs"),
    ("usefulness", "/usefulness", "Usefulness"),
    ("members", "/members", "Members"),
)
_HTMX: Final = (
    '{"allowEval":false,"includeIndicatorStyles":false,"historyEnabled":false,"historyCacheSize":0,'
    '"selfRequestsOnly":true,"allowScriptTags":false,"timeout":10000}'
)
_NO_SCRIPTS: Final = (
    "The scripts that draw charts and renew pages are not installed here (make web): this page loads itself anew"
    f" every {REFRESH_S} seconds, and charts are tables."
)


@dataclass(frozen=True, slots=True)
class Frame:
    """What pages have in common while one browser is logged in."""

    assets: Assets
    pool: str
    visitor: str  # the admin's name
    csrf: str


def document(frame: Frame, name: str, heading: str, *body: Child, refreshes: bool = False, notice: str = "") -> Html:
    """A whole page of a browser that is logged in."""
    inner = join(
        a("To the content", href="#content", class_="skip"),
        element("header")(_navigation(frame, name)),
        main(
            h1(heading),
            p(notice, class_="notice", role="status") if notice else None,
            None if frame.assets.is_whole else p(_NO_SCRIPTS, class_="notice"),
            *body,
            id="content",
            tabindex="-1",
        ),
        element("footer")(f"p2pfs pool {frame.pool}"),
    )
    return _page(frame.assets, f"{heading} · {frame.pool}", inner, refreshes=refreshes, scripts=True)


def outside(assets: Assets, heading: str, *body: Child, scripts: Sequence[str] = ()) -> Html:
    """A whole page for somebody who is not logged in: it tells nothing of the pool."""
    inner = main(h1(heading), *body, id="content", class_="door")
    own = join(*(script(src=assets.path(name), defer=True) for name in scripts))
    return _page(assets, f"{heading} · p2pfs", join(inner, own), refreshes=False, scripts=False)


def live(path: str, content: Html) -> Html:
    """A part of a page that asks for itself again at `path`, and stays as it is while nothing changes: a selection, an
    open menu and the reader of a screen are not disturbed."""
    query = "&" if "?" in path else "?"
    return div(
        content,
        id="live",
        hx_get=f"{path}{query}seen={mark(content)}",
        hx_trigger=f"every {POLL_S}s",
        hx_swap="outerHTML",
    )


def mark(content: Html) -> str:
    """Tells one content of a live part from another."""
    return sha256(content.encode()).hexdigest()[:16]


def action(frame: Frame, path: str, words: str, *, id: str, kind: str = "", hint: str = "") -> Html:
    """A button that does something at once."""
    return form(
        hidden_token(frame),
        button(words, type="submit", id=id, class_=kind or None, aria_label=hint or None),
        method="post",
        action=path,
        class_="inline",
    )


def hidden_token(frame: Frame) -> Html:
    return input_(type="hidden", name="csrf", value=frame.csrf)


def _navigation(frame: Frame, current: str) -> Html:
    entries = (li(a(words, href=path, aria_current="page" if name == current else None)) for name, path, words in PAGES)
    return join(
        span(frame.pool, class_="pool"),
        nav(ul(*entries), aria_label="Pages"),
        div(
            span(frame.visitor, class_="visitor"),
            action(frame, "/logout", "Log out", id="logout", kind="quiet"),
            class_="who",
        ),
    )


def _page(assets: Assets, words: str, inner: Html, *, refreshes: bool, scripts: bool) -> Html:
    refresh = meta(http_equiv="refresh", content=str(REFRESH_S)) if refreshes else None
    loaded: Child = None
    if scripts and assets.is_whole:
        names = ("htmx.min.js", "uPlot.iife.min.js", "dashboard.js")
        loaded = [
            link(rel="stylesheet", href=assets.path("uPlot.min.css")),
            meta(name="htmx-config", content=_HTMX),
            *(script(src=assets.path(name), defer=True) for name in names),
        ]
        refresh = element("noscript")(refresh) if refresh else None
    head = element("head")(
        meta(charset="utf-8"),
        meta(name="viewport", content="width=device-width, initial-scale=1"),
        meta(name="color-scheme", content="light dark"),
        title(words),
        link(rel="icon", href=assets.path("icon.svg"), type="image/svg+xml"),
        link(rel="stylesheet", href=assets.path("dashboard.css")),
        refresh,
        loaded,
    )
    body = element("body")(inner)
    return Html(f"<!doctype html>{element('html')(head, body, lang='en')}")
