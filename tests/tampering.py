"""Damage to everything that is stored: rows, chunks, cache files, answers. Seeded; for the tests of promise P3.

Nothing here knows a key: what it does, a coordinator, a peer, a disk or a network could do. Each damage says in words
what it did and whether it brings back something older as a whole.
"""

import random
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec.structs import replace

KEYS = {
    "inode": ("inode",),
    "dentry": ("parent", "dentry"),
    "inline_data": ("inode",),
    "extent": ("inode", "mib", "seq"),
    "cut": ("inode", "from_mib"),
    "chunk": ("number",),
    "replica": ("chunk", "part", "peer"),
}
"""Tables that are damaged and what tells their rows apart (within the one volume there is)."""
CONTENT = ("inode", "inline_data", "extent", "cut")
_HEAVY = ("inode", "dentry", "inline_data", "extent", "extent", "extent", "chunk", "cut")
Row = dict[str, Any]
Tables = dict[str, list[Row]]


@dataclass(frozen=True)
class Damage:
    """What was done. `replays`: a whole earlier state may show, where the design allows one."""

    what: str
    replays: bool = False


def tables(connection: sqlite3.Connection) -> Tables:
    """All rows of the tables that are damaged."""
    found: Tables = {}
    for table in KEYS:
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        found[table] = [dict(zip(names, row, strict=True)) for row in cursor]
    return found


def restore(connection: sqlite3.Connection, rows: Tables) -> None:
    """Make the tables hold exactly these rows again."""
    for table, wanted in rows.items():
        connection.execute(f"DELETE FROM {table}")
        for row in wanted:
            _insert(connection, table, row)


class Vandal:
    """Damages rows of a database. `now` is what it holds, `past` what it held before.

    With `only_replays` it brings back what was; without `whole_tables` a damage stays with few inodes.
    """

    def __init__(
        self, now: Tables, past: Sequence[Tables], *, only_replays: bool = False, whole_tables: bool = True
    ) -> None:
        self.now, self.past = now, past
        self._weights = [
            weight * (act in self._REPLAYS or not only_replays) * (act is not Vandal._old_table or whole_tables)
            for act, weight in zip(self._ACTS, self._WEIGHTS, strict=True)
        ]

    def strike(self, connection: sqlite3.Connection, chance: random.Random) -> Damage:
        """One damage; tries until one of them changes something."""
        while True:
            act = chance.choices(self._ACTS, self._weights)[0]
            before = connection.total_changes
            damage = act(self, connection, chance)
            if damage is not None and connection.total_changes > before:
                return damage

    def _cell(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """One value of one row becomes another."""
        table, row = self._row(chance)
        column = chance.choice([name for name in row if name != "volume"])
        old = row[column]
        others = [other[column] for other in self.now[table] if other[column] != old]
        new = chance.choice(others) if others and chance.random() < 0.35 else damaged(old, chance, others)
        if new == old or (new is None and not _nullable(table, column)):
            return None
        self._update(connection, table, row, {column: new})
        return Damage(f"{table} {self._name(table, row)}: {column} = {_short(new)}")

    def _old_cell(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """One or some values of a row become what they were once."""
        table, row = self._row(chance)
        before = self._find(chance.choice(self.past)[table], table, row)
        if before is None or before == row:
            return None
        columns = [name for name in row if before[name] != row[name] and name not in KEYS[table]]
        columns = chance.sample(columns, chance.randint(1, len(columns))) if columns else []
        if not columns:
            return None
        self._update(connection, table, row, {column: before[column] for column in columns})
        return Damage(f"{table} {self._name(table, row)}: {columns} as they once were", replays=True)

    def _remove(self, connection: sqlite3.Connection, chance: random.Random) -> Damage:
        table, row = self._row(chance)
        connection.execute(f"DELETE FROM {table} WHERE {_where(table)}", [row[key] for key in KEYS[table]])
        return Damage(f"{table} {self._name(table, row)}: removed")

    def _swap(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """Two rows exchange one value, or everything but what tells them apart."""
        table, row = self._row(chance)
        other = chance.choice(self.now[table])
        columns = [name for name in row if name not in (*KEYS[table], "volume")]
        if not columns or other is row:
            return None
        if chance.random() < 0.5:
            columns = [chance.choice(columns)]
        self._update(connection, table, row, {name: other[name] for name in columns}, conflict="IGNORE")
        self._update(connection, table, other, {name: row[name] for name in columns}, conflict="IGNORE")
        return Damage(f"{table} {self._name(table, row)} and {self._name(table, other)}: {columns} exchanged")

    def _move(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """A row goes to, or is repeated at, another place: inode, index, layer, directory, cookie."""
        table, row = self._row(chance)
        key = chance.choice(KEYS[table])
        others = [other[key] for other in self.now[table] if other[key] != row[key]]
        place = chance.choice([*others, row[key] + 1, row[key] + chance.choice([255, 256, 1 << 20])]) % (1 << 63)
        if chance.random() < 0.5:
            self._update(connection, table, row, {key: place})
            return Damage(f"{table} {self._name(table, row)}: moved to {key} {place}")
        _insert(connection, table, row | {key: place})
        return Damage(f"{table} {self._name(table, row)}: repeated at {key} {place}")

    def _old_row(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """A row as it was once, or one that is gone, comes back."""
        table = chance.choice(_HEAVY)
        rows = [row for row in chance.choice(self.past)[table] if row not in self.now[table]]
        if not rows:
            return None
        row = chance.choice(rows)
        _insert(connection, table, row)
        return Damage(f"{table} {self._name(table, row)}: as it once was", replays=True)

    def _invented(self, connection: sqlite3.Connection, chance: random.Random) -> Damage:
        """A cut that was never made."""
        row = chance.choice(self.now["extent"])
        cut = {"volume": row["volume"], "inode": row["inode"], "from_mib": row["mib"], "seq": row["seq"] + 1}
        _insert(connection, "cut", cut)
        return Damage(f"cut of inode {row['inode']} from {row['mib']}: invented")

    def _old_inode(self, connection: sqlite3.Connection, chance: random.Random) -> Damage | None:
        """An inode with some or all of its content as it was once; what all of it shows is a whole older state."""
        now = chance.choice(self.now["inode"])
        inode, past = now["inode"], chance.choice(self.past)
        parts = CONTENT if chance.random() < 0.4 else chance.sample(CONTENT, chance.randint(1, 3))
        for table in parts:
            connection.execute(f"DELETE FROM {table} WHERE inode = ?", (inode,))
            for row in past[table]:
                if row["inode"] == inode:
                    _insert(connection, table, row)
        if chance.random() < 0.3:
            claimed = now["change"] + chance.randint(0, 2)
            connection.execute("UPDATE inode SET change = ? WHERE inode = ?", (claimed, inode))
            return Damage(f"inode {inode}: {parts} as they once were, said to be of change {claimed}", replays=True)
        return Damage(f"inode {inode}: {parts} as they once were", replays=True)

    def _old_table(self, connection: sqlite3.Connection, chance: random.Random) -> Damage:
        past = chance.choice(self.past)
        changed = list(KEYS) if chance.random() < 0.3 else [chance.choice(list(KEYS))]
        restore(connection, {table: past[table] for table in changed})
        return Damage(f"all of {changed} as it once was", replays=True)

    _ACTS = (_cell, _old_cell, _remove, _swap, _move, _old_row, _invented, _old_inode, _old_table)
    _WEIGHTS = (40, 8, 10, 12, 14, 8, 2, 8, 1)
    _REPLAYS = (_old_cell, _old_row, _old_inode, _old_table)

    def _row(self, chance: random.Random) -> tuple[str, Row]:
        table = chance.choice([table for table in _HEAVY if self.now[table]])
        return table, chance.choice(self.now[table])

    def _find(self, rows: list[Row], table: str, like: Row) -> Row | None:
        return next((row for row in rows if all(row[key] == like[key] for key in KEYS[table])), None)

    def _update(
        self, connection: sqlite3.Connection, table: str, row: Row, values: Row, conflict: str = "REPLACE"
    ) -> None:
        changes = ", ".join(f"{name} = ?" for name in values)
        connection.execute(
            f"UPDATE OR {conflict} {table} SET {changes} WHERE {_where(table)}",
            [*values.values(), *(row[key] for key in KEYS[table])],
        )

    def _name(self, table: str, row: Row) -> str:
        return "/".join(str(row[key]) for key in KEYS[table])


def _insert(connection: sqlite3.Connection, table: str, row: Row) -> None:
    places = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO {table} ({', '.join(row)}) VALUES ({places})", list(row.values()))


def _where(table: str) -> str:
    return " AND ".join(f"{key} = ?" for key in KEYS[table])


def _nullable(table: str, column: str) -> bool:
    return (table, column) in (("extent", "chunk"), ("chunk", "doomed_s"))


# ---- values ---------------------------------------------------------------------------------------------------------


def damaged(value: Any, chance: random.Random, others: Sequence[Any] = ()) -> Any:  # noqa: ANN401
    """Something of the same type, or None for what there is."""
    if isinstance(value, bytes):
        return damaged_bytes(value, chance, [other for other in others if isinstance(other, bytes)])
    if isinstance(value, int):
        return damaged_int(value, chance)
    return chance.choice(list(others)) if others else value


def damaged_int(value: int, chance: random.Random) -> int:
    """Near it, far from it, or impossible; it fits into 63 bits and a sign."""
    near = [value + 1, value - 1, value ^ (1 << chance.randrange(45))]
    return max(-(1 << 63), min(chance.choice([*near, 0, -1, -value, (1 << 62) + value % 97]), (1 << 63) - 1))


def damaged_bytes(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One of: a bit flipped, cut, extended, empty, zeroed, noise, a stretch moved or taken from elsewhere."""
    if not data:
        return chance.randbytes(chance.randint(1, 64))
    act = chance.randrange(10)
    at = chance.randrange(len(data))
    if act < 3:
        return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]
    if act == 3:
        return data[:at]
    if act == 4:
        return data + chance.choice([bytes(1), data[: at + 1], chance.randbytes(16)])
    if act == 5:
        return chance.choice([b"", bytes(len(data)), data[::-1]])
    if act == 6:
        return chance.randbytes(len(data))
    if act == 7:
        return data[at:] + data[:at]
    stretch = chance.choice([1, 16, 32, 1024])
    source = chance.choice([*others, data])
    start = chance.randrange(max(1, len(source)))
    part = source[start : start + stretch]
    return data[:at] + part + data[at + len(part) :]


def damaged_chunk(data: bytes, chance: random.Random, others: Sequence[bytes], block: int) -> bytes | None:
    """A chunk as a lying peer serves it: also with blocks exchanged, dropped, repeated, or not at all (None)."""
    act = chance.randrange(8)
    blocks = [data[at : at + block] for at in range(0, len(data), block)]
    if act == 0:
        return None
    if act == 1:
        return chance.choice(others)
    if act == 2 and len(blocks) > 1:
        chance.shuffle(blocks)
        return b"".join(blocks)
    if act == 3:
        del blocks[chance.randrange(len(blocks))]
        return b"".join(blocks)
    if act == 4:
        blocks.insert(chance.randrange(len(blocks)), chance.choice(blocks))
        return b"".join(blocks)
    return damaged_bytes(data, chance, others)


def damaged_message(value: Any, chance: random.Random, others: Sequence[Any] = ()) -> Any:  # noqa: ANN401
    """An answer with one thing in it changed, or another answer of that kind altogether."""
    if others and chance.random() < 0.3:
        return chance.choice(list(others))
    if isinstance(value, msgspec.Struct):
        name = chance.choice(value.__struct_fields__)
        siblings = [getattr(other, name) for other in others if isinstance(other, type(value))]
        return replace(value, **{name: damaged_message(getattr(value, name), chance, siblings)})
    if isinstance(value, list):
        return _damaged_list(value, chance, [entry for other in others for entry in other])
    if isinstance(value, bool):
        return not value
    if value is None:
        return chance.choice(list(others)) if others else None
    if isinstance(value, bytes) and chance.random() < 0.1:
        return None if None in others else b""
    return damaged(value, chance, others)


def _damaged_list(value: list[Any], chance: random.Random, others: list[Any]) -> list[Any]:
    items = list(value)
    act = chance.randrange(5)
    if act == 0 and items:
        del items[chance.randrange(len(items))]
    elif act == 1 and items:
        items.insert(chance.randrange(len(items)), chance.choice(items))
    elif act == 2 and others:
        items.insert(chance.randint(0, len(items)), chance.choice(others))
    elif items:
        at = chance.randrange(len(items))
        items[at] = damaged_message(items[at], chance, others)
    return items


Tamper = Callable[[str, Any], Any]


def _short(value: object) -> str:
    return f"{len(value)} bytes {value[:8].hex()}" if isinstance(value, bytes) else repr(value)
