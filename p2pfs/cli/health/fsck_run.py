"""Runs a check for `p2pfs fsck`: hardens the process that holds the keys, shows how far it is, asks before mending."""

from collections import Counter

import click
import trio

from p2pfs import exitcodes
from p2pfs.cli.passphrases import Passphrase
from p2pfs.cli.progress import checked_bar
from p2pfs.cli.show import say
from p2pfs.errors import NotFound, UserError
from p2pfs.runtime import process
from p2pfs.runtime.home import NodeHome
from p2pfs.vfs.fsck.check import Wanted, check
from p2pfs.vfs.fsck.findings import Finding, Findings, Remedy

_SHOWN = 20
_MEANING = {
    Remedy.DROP: "names that lead to nothing will be removed",
    Remedy.MOVE: "entries that nobody vouches for will be moved to /lost+found",
    Remedy.SALVAGE: "files whose content is not provably whole will be moved to /lost+found, with what of it opens",
}


def run(
    home: NodeHome,
    volume: str,
    path: bytes,
    passphrase: Passphrase,
    *,
    data: bool,
    repair: bool,
    yes: bool,
) -> Findings:
    """Check, and mend if that is wanted.

    Raises:
        UserError: No such volume or path, or a wrong passphrase.
        PoolError: The coordinator does not answer or refuses.
    """
    process.harden()
    given = passphrase()  # before there is a bar

    async def talk() -> Findings:
        wanted = Wanted(volume, path, data=data, repair=repair)
        with checked_bar() as bar:

            async def consent(asking: list[Finding]) -> bool:
                bar.pause()
                return yes or await trio.to_thread.run_sync(_agree, asking)

            try:
                return await check(
                    home, home.settings({}), wanted, passphrase=lambda: given, consent=consent, progress=bar.show
                )
            except NotFound as error:
                raise UserError(f"{path.decode(errors='replace')}: {error}", exitcodes.NOT_FOUND) from None

    return trio.run(talk, strict_exception_groups=True)


def _agree(asking: list[Finding]) -> bool:
    for remedy, number in Counter(finding.remedy for finding in asking).items():
        click.echo(f"{number} {_MEANING[remedy]}:", err=True)
        some = [finding for finding in asking if finding.remedy is remedy]
        for finding in some[:_SHOWN]:
            say(f"  {finding.path.decode(errors='replace')}: {finding.message}", err=True)
        if len(some) > _SHOWN:
            click.echo(f"  … and {len(some) - _SHOWN} more", err=True)
    try:
        return click.confirm("Do that?", err=True)
    except click.Abort:  # nobody is there to ask
        return False
