"""HTML by functions: whatever is not `Html` already is escaped, so that no name a hostile node chose becomes markup."""

import html
from collections.abc import Callable, Iterable
from typing import Final

Attribute = str | int | float | bool | None


class Html(str):
    """Text that is markup, made by this module or by an author."""

    __slots__ = ()


Child = str | int | None | Iterable["Child"]
_VOID: Final = frozenset({"input", "link", "meta", "rect", "br"})


def join(*children: Child) -> Html:
    """Everything in a row; None is nothing."""
    return Html("".join(_parts(children)))


def _parts(children: Iterable[Child]) -> Iterable[str]:
    for child in children:
        if child is None:
            continue
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str | int):
            yield html.escape(str(child))
        else:
            yield from _parts(child)


def element(name: str) -> Callable[..., Html]:
    """A function that makes elements of this name: children, then attributes by keyword. `class_` and `for_` lose their
    underscore, others become hyphens; False and None leave an attribute out, True writes its name alone."""

    def make(*children: Child, **attributes: Attribute) -> Html:
        written = "".join(_attribute(key, value) for key, value in attributes.items())
        if name in _VOID:
            return Html(f"<{name}{written}>" if name != "rect" else f"<{name}{written}/>")
        return Html(f"<{name}{written}>{join(*children)}</{name}>")

    return make


def _attribute(key: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


a = element("a")
button = element("button")
caption = element("caption")
code = element("code")
dd = element("dd")
details = element("details")
div = element("div")
dl = element("dl")
dt = element("dt")
figcaption = element("figcaption")
figure = element("figure")
form = element("form")
h1 = element("h1")
h2 = element("h2")
h3 = element("h3")
input_ = element("input")
label = element("label")
li = element("li")
link = element("link")
main = element("main")
meta = element("meta")
nav = element("nav")
option = element("option")
p = element("p")
progress = element("progress")
rect = element("rect")
script = element("script")
section = element("section")
select = element("select")
small = element("small")
span = element("span")
strong = element("strong")
summary = element("summary")
svg = element("svg")
table = element("table")
tbody = element("tbody")
td = element("td")
textarea = element("textarea")
th = element("th")
thead = element("thead")
time_ = element("time")
title = element("title")
tr = element("tr")
ul = element("ul")
