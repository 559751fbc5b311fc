"""What a program that lists a directory will be told next is opened while it takes in the answer before. For
`filesystem`.
"""

from contextlib import suppress

import trio

from p2pfs.errors import PoolError
from p2pfs.types import DentryId, InodeId
from p2pfs.vfs.listings import KnownPage
from p2pfs.vfs.tree import Tree


class ListingAhead:
    """Asks nobody for anything: only entries that are known are opened, some at a time, one time after another."""

    def __init__(self, tree: Tree, known_page: KnownPage, nursery: trio.Nursery) -> None:
        self._tree, self._known_page, self._nursery = tree, known_page, nursery
        self._is_due = False

    def want(self, directory: InodeId, after: DentryId, limit: int) -> None:
        """`Tree.directory` will be asked this: open some of its entries behind the answer that is being given now.
        Called with each answer until it is asked; what is wanted while others wait for their turn is
        not opened ahead."""
        if not self._is_due:
            self._is_due = True
            self._nursery.start_soon(self._open, directory, after, limit)

    async def _open(self, directory: InodeId, after: DentryId, limit: int) -> None:
        """No checkpoint: what is opened is of the page that is known now."""
        self._is_due = False
        with suppress(PoolError):  # who asks for these entries hears why
            page = self._known_page(directory, after, limit)
            if page is not None:
                self._tree.open_ahead(directory, page)
