"""`p2pfs join`: this machine becomes a node of the pool its invite names."""

import functools
import getpass
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import click

from p2pfs import exitcodes
from p2pfs.cli import completing
from p2pfs.cli.options import home_option, json_option, set_option
from p2pfs.cli.show import print_json
from p2pfs.cli.waiting import waiting
from p2pfs.errors import Denied, Exists, Invalid, Unavailable, UserError
from p2pfs.format.invites import PREFIX, Invite, decode_invite
from p2pfs.runtime import process
from p2pfs.runtime.config_file import write_settings
from p2pfs.runtime.home import NodeHome, NodeRecord
from p2pfs.types import NodeId, PeerNumber, PoolId, Role

_MOST_BYTES = 16384


@click.command("join")
@click.argument("file", required=False, metavar="[FILE]", shell_complete=completing.files)
@set_option
@home_option
@json_option
def command(file: str | None, overrides: dict[str, str], home: NodeHome, as_json: bool) -> None:
    """Enter a pool with an invite made by `p2pfs invite`.

    The invite is asked for, or read from FILE, or from standard input when that is no terminal or FILE is -. The
    coordinator is recognised by the keys in the invite; where it is at none of the invite's addresses it is looked for
    on the local network. Settings given with --set are kept in the home's config.toml.

    \b
    Examples:
      p2pfs join
      p2pfs join invite.txt --set capacity=200G
      ssh anna@server p2pfs invite anna@laptop | p2pfs join
    """
    process.harden()
    home.require_vacant()
    invite = _parse(_read(file))
    record = enter(home, invite, overrides)
    if as_json:
        print_json({"home": str(home.path), "pool": record.pool, "node": record.node, "name": record.name})
        return
    click.echo(f"this machine is {record.name} in the pool now, as {' and '.join(sorted(record.roles))}")
    if Role.PEER in record.roles:
        click.echo("offer its disk with: p2pfs peer start   (as a service: systemctl enable --now p2pfs-peer)")
    if Role.CLIENT in record.roles:
        click.echo("then: p2pfs volume create NAME, p2pfs mount NAME DIRECTORY")


def enter(home: NodeHome, invite: Invite, settings: dict[str, str]) -> NodeRecord:
    """Join the pool of `invite` and make `home` the node's home; a failure leaves nothing in it.

    Raises:
        UserError: BAD_INVITE, FOREIGN_COORDINATOR, BAD_CONFIGURATION, ALREADY_INITIALISED.
        Unavailable: The coordinator does not answer.
    """
    home.require_vacant()
    home.settings(settings)  # a bad value is told before the invite is used
    was_there = home.path.exists()
    try:
        home.prepare()  # and a home that cannot be one
        return _enter(home, invite, settings)
    except BaseException:
        if not was_there and not home.exists():  # another one may have moved in while this one waited
            shutil.rmtree(home.path, ignore_errors=True)
        raise


def _enter(home: NodeHome, invite: Invite, settings: dict[str, str]) -> NodeRecord:
    import trio

    from p2pfs.net import enrolment

    try:
        with waiting("joining") as tell:
            enrolled = trio.run(enrolment.join, invite, functools.partial(_look_around, invite, tell))
    except (enrolment.Refused, Exists) as error:
        raise UserError(str(error), exitcodes.BAD_INVITE) from None
    except Denied as error:
        raise UserError(
            f"whoever answers is not the coordinator of this invite ({error}): ask for a new invite",
            exitcodes.FOREIGN_COORDINATOR,
        ) from None
    answer = enrolled.answer
    record = NodeRecord(
        pool=PoolId(answer.pool),
        node=NodeId(answer.node),
        name=answer.name,
        owner=answer.owner,
        zone=answer.zone,
        roles=[Role(role) for role in answer.roles],
        coordinator=NodeId(answer.coordinator),
        addresses=list(enrolled.addresses or invite.addresses),
        peer=PeerNumber(answer.peer),
    )
    write_settings(home, settings)
    home.create(record, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    return record


async def _look_around(invite: Invite, tell: Callable[[str], None]) -> list[str]:
    """Where the coordinator may be on the local network; TLS finds out who answers there."""
    from p2pfs.net import lan

    tell("The coordinator is at no address of the invite; looking for it on the local network …")
    try:
        found = await lan.look(invite.pool)
    except Unavailable as error:
        tell(f"Cannot look there: {error}")
        return []
    tell(f"Found: {', '.join(found)}" if found else "Nobody there says to be it.")
    return found


def _parse(text: str) -> Invite:
    try:
        return decode_invite(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.BAD_INVITE) from None


def _read(file: str | None) -> str:
    if file is not None and file.startswith(PREFIX):
        raise UserError(
            "an invite is a secret and every user of this machine can see arguments: run `p2pfs join` and paste it",
            exitcodes.USAGE,
        )
    if file is not None and file != "-":
        try:
            with Path(file).open("rb") as opened:
                return _all_of(opened)
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}", exitcodes.USAGE) from None
    if file == "-" or not sys.stdin.isatty():
        return _all_of(sys.stdin.buffer)
    return getpass.getpass("Paste the invite (it is not shown): ")


def _all_of(opened: BinaryIO) -> str:
    return opened.read(_MOST_BYTES).decode("utf-8", "replace")
