"""The only page for somebody who is not logged in."""

from p2pfs.coordinator.dashboard.markup import Html, button, code, div, form, input_, join, label, p


def content(*, notice: str = "", has_certificate: bool = False) -> Html:
    """Takes the secret of a link, by a script from the address or by hand."""
    return join(
        p(notice, class_="notice", role="alert") if notice else None,
        p("Run ", code("p2pfs dashboard"), " on a machine of an admin, and open the link that it prints."),
        form(
            div(
                label("Or paste what follows the # in the link", for_="secret"),
                input_(
                    id="secret", name="secret", type="password", required=True, autocomplete="off", maxlength=64,
                    autofocus=not has_certificate,
                ),
                class_="field",
            ),
            button("Log in", type="submit"),
            method="post",
            action="/login",
            id="login",
        ),
        form(
            input_(type="hidden", name="certificate", value="yes"),
            button("Log in with this browser's certificate", type="submit"),
            method="post",
            action="/login",
        )
        if has_certificate
        else None,
    )  # fmt: skip
