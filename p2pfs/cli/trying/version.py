"""`p2pfs version`."""

import platform

import click

from p2pfs.cli.options import json_option
from p2pfs.cli.show import print_json
from p2pfs.cli.versions import version_of


@click.command("version")
@json_option
def command(as_json: bool) -> None:
    """Show the versions of p2pfs, Python and the libraries that matter.

    \b
    Example:
      p2pfs version --json
    """
    versions = {"p2pfs": version_of("p2pfs"), "python": platform.python_version()}
    versions |= {name: version_of(name) for name in ("trio", "cryptography", "blake3", "msgspec", "pyfuse3", "psutil")}
    if as_json:
        print_json(versions)
        return
    for name, version in versions.items():
        click.echo(f"{name} {version or 'not installed'}")
