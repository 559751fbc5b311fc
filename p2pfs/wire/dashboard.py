"""`POST /dashboard/logins`: an admin asks for a way into the dashboard (`p2pfs dashboard`)."""

import msgspec


class LoginLink(msgspec.Struct, frozen=True):
    """Good once, for `lifetime_s` seconds. The link is `https://ADDRESS/login#SECRET`: what follows the # stays in the
    browser until its page sends it. `fingerprint` is the SHA-256 of the certificate that the dashboard shows, in
    lower-case hexadecimal."""

    addresses: list[str]  # host:port, best first
    secret: str
    fingerprint: str
    lifetime_s: int
