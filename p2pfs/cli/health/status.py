"""`p2pfs status`: the pool in one word, with reasons, tables for people and stable JSON for programs."""

import click

from p2pfs import exitcodes
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.report import EXIT_CODES, parse, unreachable
from p2pfs.cli.show import print_json
from p2pfs.errors import Unavailable
from p2pfs.runtime.home import NodeHome


@click.command("status")
@home_option
@json_option
def command(home: NodeHome, as_json: bool) -> int:
    """Show the pool's health, peers, volumes and chunks.

    Exit status: 0 healthy, 20 warning, 21 error or no answer from the coordinator. The keys of the JSON are documented
    in docs/commands.md and only ever added to.

    \b
    Examples:
      p2pfs status
      p2pfs status --json | jq .chunks.by_copies
    """
    from p2pfs.cli import connect

    try:
        answer = connect.fetch(home, "/status")
    except Unavailable as error:
        report = unreachable(home, str(error))
        if not as_json:
            click.echo(f"p2pfs: {error}", err=True)
    else:
        report = parse(answer)
    if as_json:
        print_json(report)
    elif report["pool"] is not None:
        from p2pfs.cli.health.status_tables import print_report

        print_report(report)
    return EXIT_CODES.get(report["health"], exitcodes.HEALTH_ERROR)
