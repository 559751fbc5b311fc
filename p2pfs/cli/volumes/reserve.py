"""`p2pfs reserve SIZE|list|release`: room promised to a volume before its data is there."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

from p2pfs import exitcodes
from p2pfs.cli.members import find_volume
from p2pfs.cli.options import home_option, json_option
from p2pfs.cli.show import print_json, print_table, say
from p2pfs.errors import Invalid, UserError
from p2pfs.runtime.home import NodeHome
from p2pfs.runtime.sizes import format_duration, format_size, given_size, parse_span
from p2pfs.types import VolumeId, volume_name
from p2pfs.wire.bookings import Book, BookingInfo
from p2pfs.wire.volumes import VolumeInfo

_WITH_VALUE = frozenset({"--for", "--volume", "--home"})


class _SizeOrWord(click.Group):
    """`reserve 50G` beside `reserve list`: a size is a command, too, which reserves so much."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("--"):  # options may come first
            behind = zip(["", *args], args, strict=False)
            sizes = [at for at, (before, word) in enumerate(behind) if word[:1].isdigit() and before not in _WITH_VALUE]
            if not sizes and args[0].partition("=")[0] in _WITH_VALUE - {"--home"}:
                raise click.UsageError("say how much, such as p2pfs reserve 50G --for 2h", ctx)
            args = [args[at] for at in sizes[:1]] + [word for at, word in enumerate(args) if at not in sizes[:1]]
        return super().parse_args(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name[:1].isdigit():
            found = _reserving(cmd_name)
        return found


@click.group(
    "reserve", cls=_SizeOrWord, invoke_without_command=True, subcommand_metavar="SIZE --for TIME | list | release ID"
)
@click.pass_context
def command(context: click.Context) -> None:
    """Reserve room in the pool before data is moved there.

    `p2pfs reserve 50G --for 2h` promises a volume room for 50 GiB of content on enough peers. Others see that room as
    taken. What is stored in the volume draws from it; what is left when the time is over is everybody's again.

    \b
    Examples:
      p2pfs reserve 50G --for 2h
      p2pfs reserve 500M --for 30min --volume photos --json
      p2pfs reserve list
      p2pfs reserve release 3
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _reserving(size: str) -> click.Command:
    """The command that reserves `size`."""

    @click.command(size, options_metavar="--for TIME [OPTIONS]")
    @click.option("--for", "span", metavar="TIME", required=True, help="For so long: 30min, 2h, at most 7d.")
    @click.option("--volume", metavar="VOLUME", help="For what is stored in VOLUME (default: the only one there is).")
    @home_option
    @json_option
    def reserve(span: str, volume: str | None, home: NodeHome, as_json: bool) -> None:
        """Reserve so much room for one volume.

        \b
        Example:
          p2pfs reserve 50G --for 2h --volume photos
        """
        from p2pfs.cli import connect

        wanted = Book(_parse_size(size), _parse_span(span))
        volumes = connect.call(home, "GET", "/volumes", None, list[VolumeInfo])
        chosen = _only(volumes) if volume is None else find_volume(volumes, volume)
        path = f"/volumes/{volume_name(VolumeId(chosen.volume))}/bookings"
        made = connect.call(home, "POST", path, wanted, BookingInfo)
        if as_json:
            print_json(_as_json(made, volumes))
        else:
            until = f"{_moment(made.expires_s)}, for {format_duration(wanted.for_s)}"
            say(f"reservation {made.id}: {format_size(made.bytes)} for {chosen.name} until {until}")

    return reserve


@command.command("list")
@home_option
@json_option
def list_reservations(home: NodeHome, as_json: bool) -> None:
    """List what this owner has reserved, or as an admin what everybody has, the oldest first.

    \b
    Example:
      p2pfs reserve list --json | jq '.[].left_bytes'
    """
    found, volumes = _fetched(home)
    if as_json:
        print_json([_as_json(booking, volumes) for booking in found])
    elif not found:
        say("nothing is reserved; reserve room with: p2pfs reserve SIZE --for TIME")
    else:
        rows = [
            (
                f"{booking.id}",
                _name(booking, volumes),
                booking.owner,
                format_size(booking.bytes),
                format_size(booking.left_bytes),
                format_size(booking.short_bytes) if booking.short_bytes else "",
                _moment(booking.expires_s),
            )
            for booking in found
        ]
        titles = ("id", "volume", "owner", "reserved", "left", "without room", "until")
        print_table(titles, rows, right=("id", "reserved", "left", "without room"))


@command.command("release")
@click.argument("number", metavar="ID", type=click.IntRange(1, 1 << 40))
@home_option
@json_option
def release(number: int, home: NodeHome, as_json: bool) -> None:
    """Give a reservation back before its time is over. What was stored stays.

    \b
    Example:
      p2pfs reserve release 3
    """
    from p2pfs.cli import connect

    released = connect.call(home, "DELETE", f"/bookings/{number}", None, BookingInfo)
    if as_json:
        print_json(_as_json(released, connect.call(home, "GET", "/volumes", None, list[VolumeInfo])))
    else:
        say(f"released: {format_size(released.left_bytes)} were left of {format_size(released.bytes)}")


def _fetched(home: NodeHome) -> tuple[list[BookingInfo], list[VolumeInfo]]:
    from p2pfs.cli import connect

    async def ask(coordinator: connect.Coordinator) -> tuple[list[BookingInfo], list[VolumeInfo]]:
        return (
            await coordinator.call("GET", "/bookings", None, list[BookingInfo]),
            await coordinator.call("GET", "/volumes", None, list[VolumeInfo]),
        )

    return connect.converse(home, ask)


def _only(volumes: Sequence[VolumeInfo]) -> VolumeInfo:
    """Raises UserError."""
    if not volumes:
        raise UserError("there is no volume yet: make one with p2pfs volume create NAME", exitcodes.NOT_FOUND)
    if len(volumes) > 1:
        names = ", ".join(sorted(volume.name for volume in volumes)[:10])
        raise UserError(f"for which volume? There are {names}: add --volume NAME", exitcodes.USAGE)
    return volumes[0]


def _parse_size(text: str) -> int:
    """Raises UserError."""
    try:
        return given_size(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None


def _parse_span(text: str) -> float:
    """Raises UserError."""
    try:
        return parse_span(text)
    except Invalid as error:
        raise UserError(str(error), exitcodes.USAGE) from None


def _as_json(booking: BookingInfo, volumes: Sequence[VolumeInfo]) -> dict[str, Any]:
    return {
        "id": booking.id,
        "volume": _name(booking, volumes),
        "volume_id": volume_name(VolumeId(booking.volume)),
        "owner": booking.owner,
        "bytes": booking.bytes,
        "left_bytes": booking.left_bytes,
        "short_bytes": booking.short_bytes,
        "made_s": booking.made_s,
        "expires_s": booking.expires_s,
    }


def _name(booking: BookingInfo, volumes: Sequence[VolumeInfo]) -> str:
    identified = volume_name(VolumeId(booking.volume))
    return next((volume.name for volume in volumes if volume.volume == booking.volume), identified)


def _moment(expires_s: float) -> str:
    return datetime.fromtimestamp(expires_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
