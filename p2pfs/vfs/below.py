"""The walk through everything below a directory, for what is done to whole trees: leases, labels, warming."""

from collections.abc import AsyncGenerator, Sequence

from p2pfs.errors import NotFound
from p2pfs.meta.protocol import Namespace
from p2pfs.types import DentryId, InodeId, Kind
from p2pfs.wire.namespace import Entry


async def pages_below(
    namespace: Namespace, top: InodeId, *, limit: int
) -> AsyncGenerator[tuple[Sequence[Entry], int], None]:
    """Entries, at most `limit` at once, and how many directories are still to be read. Each directory is read once, and
    told of before what is in it; what is removed meanwhile is left out. Close it (`aclosing`).

    Raises:
        PoolError: What asking for a directory raises, but for NotFound.
    """
    waiting, met = [top], {top}
    while waiting:
        directory, after, complete = waiting.pop(), DentryId(0), False
        while not complete:
            try:
                page = await namespace.directory(directory, after, limit)
            except NotFound:
                break
            for entry in page.entries:
                after, number = DentryId(entry.dentry), InodeId(entry.attributes.inode)
                if entry.attributes.kind == Kind.DIRECTORY and number not in met:
                    met.add(number)
                    waiting.append(number)
            yield page.entries, len(waiting)
            complete = page.complete or not page.entries
