"""pytest plugin: a connection to an SQLite database that nobody closed fails the run, whichever Python it is.

From 3.13 on `sqlite3` warns by itself. It is noticed when the connection goes, which may be in another test.
"""

import functools
import sqlite3
import sys
import warnings


class _Checked(sqlite3.Connection):
    def __del__(self) -> None:
        try:
            _ = self.total_changes
        except sqlite3.ProgrammingError:  # it is closed
            return
        warnings.warn(f"unclosed database in {self!r}", ResourceWarning, source=self, stacklevel=1)


if sys.version_info < (3, 13):
    sqlite3.connect = functools.partial(sqlite3.connect, factory=_Checked)
