"""Directories that programs have open: what was fetched of each and not yet handed to the kernel. For `operations`."""

from dataclasses import dataclass, field

import trio

from p2pfs.types import InodeId
from p2pfs.vfs.listings import Listed


@dataclass(slots=True)
class DirectoryHandle:
    """An open directory and the entries fetched but not yet handed to the kernel."""

    inode: InodeId
    listed: list[Listed] = field(default_factory=list)
    at: int = 0
    next: int = 0  # the cookie the kernel will ask for if it reads on: of the dots 1 and 2, then a dentry's number + 1
    complete: bool = False
    fetched_s: float = 0.0

    def go_to(self, cookie: int) -> None:
        """What was fetched is not to be given any more."""
        self.listed, self.at, self.next, self.complete = [], 0, cookie, False

    def has_rest(self) -> bool:
        return self.at < len(self.listed)

    def age_s(self) -> float:
        """Of what was fetched."""
        return trio.current_time() - self.fetched_s
