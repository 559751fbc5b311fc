"""The `p2pfs` command: finds the subcommand's file, imports only that one, and turns errors into exit codes."""

import difflib
import importlib
import sys
import traceback
from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from p2pfs import exitcodes
from p2pfs.cli import failures


class _Group(NamedTuple):
    """Commands that belong together."""

    package: str  # below p2pfs.cli
    title: str


_GROUPS: Final = {
    _Group("pool", "A pool and its machines"): {
        "init": "Make a new pool, with this machine as coordinator",
        "invite": "Print a one-time invite for a new machine",
        "join": "Enter a pool with an invite",
        "revoke": "Throw a machine out, for good",
        "coordinator": "Run the coordinator, or bring it back from its backup",
        "peer": "Offer this machine's spare disk, and take it back in peace",
        "share": "Say how much of this machine the pool may use",
    },
    _Group("volumes", "Volumes"): {
        "volume": "Make volumes and look into them",
        "mount": "Mount a volume as a directory",
        "umount": "Unmount one when everything is stored",
        "key": "See and change passphrases",
        "reserve": "Promise a volume room for a while",
    },
    _Group("files", "Files"): {
        "where": "Show which machines hold a file",
        "why": "Show what a file can lose and still be read",
        "du": "Show what files take, stored once and with all copies",
        "warmup": "Fetch files into the mount's cache",
        "evict": "Drop files from the mount's cache",
        "lease": "Keep files for a time",
        "tag": "Say of files what they are found by",
        "search": "Find files by words or by content",
        "undelete": "Bring back what was removed or has expired",
        "trash": "See what can be brought back, or let it go",
    },
    _Group("health", "How it is"): {
        "status": "Show the pool's health, peers, volumes and chunks",
        "stats": "Show what a mount is doing",
        "accesslog": "Show every request to a mount",
        "top": "Watch the pool live in the terminal",
        "dashboard": "Open the pool's web pages",
        "doctor": "Find what keeps this machine from working",
        "fsck": "Check a volume, and mend it",
        "usefulness": "Show who gives and who takes, and what that allows",
        "jobs": "Show and steer the pool's background work",
        "plan": "Say beforehand what losing peers would mean",
        "debug": "Pack up logs and state for whoever looks for a fault",
    },
    _Group("trying", "Trying and measuring"): {
        "demo": "Run a whole pool on this machine",
        "bench": "Measure how fast a mounted volume is",
        "simulate": "Say how many copies a pool needs",
        "version": "Show versions",
    },
}
"""Commands, each with a module of its name in its group's package, in the order `--help` shows: as a newcomer meets
them."""

_INTERRUPTED: Final = 130
"""What shells expect of a command ended by Ctrl-C."""


class _LazyGroup(click.Group):
    """Imports a command's file when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in _GROUPS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for group, commands in _GROUPS.items():
            if cmd_name in commands:
                module = importlib.import_module(f"p2pfs.cli.{group.package}.{cmd_name}")
                command: click.Command = module.command
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1, 0.6)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {near[0]}?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, self.list_commands(ctx)))
        for group, commands in _GROUPS.items():
            with formatter.section(group.title):
                formatter.write_dl([(name.ljust(width), short) for name, short in commands.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
def cli() -> None:
    """An end-to-end encrypted, replicated peer-to-peer file system you mount as a directory.

    A node's state lives in one directory: --home, else P2PFS_HOME, else /var/lib/p2pfs for root and
    ~/.local/state/p2pfs for a person. Exit statuses are listed in docs/commands.md.

    \b
    Examples:
      p2pfs demo start --root .demo --mount .demo/mnt    a whole pool on this machine
      p2pfs init --name home                             a new pool, with this machine as coordinator
      p2pfs join                                         enter a pool with the invite you were given
      p2pfs mount photos ~/photos -d                     a volume as a directory
    """


def run(arguments: Sequence[str], command: click.Command = cli, name: str = "p2pfs") -> int:
    """Run one command line; its exit status. Never raises, except what ends the process on purpose."""
    try:
        outcome = command.main(args=list(arguments), prog_name=name, standalone_mode=False)
        return outcome if isinstance(outcome, int) else exitcodes.OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        if isinstance(error.__context__, EOFError) and not sys.stdin.isatty():
            click.echo(
                f"\n{name}: there is no terminal to ask: give --yes, or as an option what is asked for", err=True
            )
            return exitcodes.USAGE
        click.echo(f"{name}: interrupted", err=True)
        return _INTERRUPTED
    except Exception as error:
        return _report(error, name)


def _report(error: Exception, name: str) -> int:
    known = failures.expected(error)
    if known is not None:
        from p2pfs.cli.show import say

        say(f"{name}: {known}", err=True)
        return failures.exit_code_of(known)
    traceback.print_exception(error)
    click.echo(f"{name}: this is a bug in p2pfs, not a mistake of yours; please report the lines above", err=True)
    return exitcodes.FAILED


def main() -> None:
    """Entry point of the `p2pfs` script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
