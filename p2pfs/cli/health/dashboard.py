"""`p2pfs dashboard`: a one-time link into the coordinator's web pages."""

import click

from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, say
from p2pfs.errors import NotFound, Unavailable
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_duration


@click.command("dashboard")
@home_option
@json_option
def command(home: NodeHome, as_json: bool) -> None:
    """Print a link that logs a browser into the coordinator's dashboard, once. Needs the role admin.

    Hand it to nobody: who opens it first is this admin for as long as `dashboard_session` says. The browser does not
    know the dashboard's certificate: compare its fingerprint with the one printed here.

    \b
    Examples:
      p2pfs dashboard
      p2pfs dashboard --json | jq -r .url
    """
    process.harden()
    from p2pfs.cli import connect
    from p2pfs.wire.dashboard import LoginLink

    try:
        link = connect.call(home, "POST", "/dashboard/logins", None, LoginLink)
    except NotFound:
        raise Unavailable("the coordinator is of an older version, which has no dashboard") from None
    urls = [f"https://{address}/login#{link.secret}" for address in link.addresses]
    if as_json:
        given = {"url": urls[0], "urls": urls, "fingerprint": link.fingerprint, "lifetime_s": link.lifetime_s}
        print_json(given)
        return
    click.echo(urls[0])
    fingerprint = ":".join(link.fingerprint[at : at + 2].upper() for at in range(0, len(link.fingerprint), 2))
    say(f"Good once within {format_duration(link.lifetime_s)}. SHA-256 fingerprint of its certificate:", err=True)
    click.echo(f"  {fingerprint}", err=True)
    host, _, port = link.addresses[0].rpartition(":")
    if _is_loopback(host) and not any(_is_loopback(one.rpartition(":")[0]) for one in home.record().addresses):
        say(
            f"It answers on the coordinator's own machine only: from another one, first ssh -L {port}:{host}:{port} to"
            " it, or set dashboard_listen there.",
            err=True,
        )


def _is_loopback(host: str) -> bool:
    return host in ("127.0.0.1", "[::1]", "localhost")
