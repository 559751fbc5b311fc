"""Whether the rows of a coordinator's database agree with each other."""

import sqlite3

_IN_TRASH = (
    "(EXISTS (SELECT 1 FROM trash t WHERE t.volume = i.volume AND t.inode = i.inode) AND NOT EXISTS"
    " (SELECT 1 FROM open_inode o WHERE o.volume = i.volume AND o.inode = i.inode))"
)
"""Of an `inode i`: whether only the trash keeps it."""


def broken_invariants(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with a database, in words; empty when all counters and links agree with the rows."""
    checks = {
        "a chunk counts other references than it has": "SELECT count(*) FROM chunk c WHERE refs !="
        " (SELECT count(*) FROM extent e WHERE e.chunk = c.number)",
        "a chunk is doomed although named, or the reverse": "SELECT count(*) FROM chunk"
        " WHERE (refs = 0) != (doomed_s IS NOT NULL)",
        "an extent names a chunk that is not there": "SELECT count(*) FROM extent WHERE chunk IS NOT NULL"
        " AND chunk NOT IN (SELECT number FROM chunk)",
        "a copy counts although it is void": "SELECT count(*) FROM replica r JOIN chunk c ON c.number = r.chunk"
        " JOIN void_copy v ON v.peer = r.peer AND v.volume = c.volume AND v.id = c.id AND v.put_seq >= r.put_seq"
        " WHERE r.proved >= 0",  # what an inventory found is not proved
        "a replica is of no chunk": "SELECT count(*) FROM replica WHERE chunk NOT IN (SELECT number FROM chunk)",
        "a volume counts its inodes wrongly": "SELECT count(*) FROM volume v WHERE inodes !="
        f" (SELECT count(*) FROM inode i WHERE i.volume = v.id AND NOT {_IN_TRASH})",
        "a volume counts its bytes wrongly": "SELECT count(*) FROM volume v WHERE bytes !="
        f" (SELECT coalesce(sum(size), 0) FROM inode i WHERE i.volume = v.id AND NOT {_IN_TRASH})",
        "a volume counts its trash wrongly": "SELECT count(*) FROM volume v WHERE (trash_inodes, trash_bytes) !="
        f" (SELECT count(*), coalesce(sum(size), 0) FROM inode i WHERE i.volume = v.id AND {_IN_TRASH})",
        "something in the trash has a name, or is not there": "SELECT count(*) FROM trash t WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = t.volume AND i.inode = t.inode AND i.links = 0)",
        "a name leads nowhere": "SELECT count(*) FROM dentry d WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = d.volume AND i.inode = d.inode)",
        "a name is in no directory": "SELECT count(*) FROM dentry d WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = d.volume AND i.inode = d.parent AND i.kind = 2 AND i.links > 0)",
        "a file has other names than links": "SELECT count(*) FROM inode i WHERE kind != 2 AND links !="
        " (SELECT count(*) FROM dentry d WHERE d.volume = i.volume AND d.inode = i.inode)",
        "a directory counts its subdirectories wrongly": "SELECT count(*) FROM inode i WHERE kind = 2 AND links > 0"
        " AND links != 2 + (SELECT count(*) FROM inode s WHERE s.volume = i.volume AND s.kind = 2 AND s.links > 0"
        " AND s.parent = i.inode AND s.inode != i.inode)",
        "an inode has neither name nor handle": "SELECT count(*) FROM inode i WHERE links = 0 AND NOT EXISTS"
        " (SELECT 1 FROM open_inode o WHERE o.volume = i.volume AND o.inode = i.inode) AND NOT EXISTS"
        " (SELECT 1 FROM trash t WHERE t.volume = i.volume AND t.inode = i.inode)",
        "a handle is of no inode or session": "SELECT count(*) FROM open_inode o WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = o.volume AND i.inode = o.inode)"
        " OR o.session NOT IN (SELECT number FROM session)",
        "a volume is delegated to no session of its own": "SELECT count(*) FROM delegation d WHERE session IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM session s WHERE s.number = d.session AND s.volume = d.volume)",
        "inline data and its flag disagree": "SELECT count(*) FROM inode i WHERE inline !="
        " (SELECT count(*) FROM inline_data x WHERE x.volume = i.volume AND x.inode = i.inode)",
        "inline data of no inode": "SELECT count(*) FROM inline_data x WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = x.volume AND i.inode = x.inode)",
        "an extended attribute of no inode will never be reaped": "SELECT count(*) FROM xattr x WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = x.volume AND i.inode = x.inode) AND NOT EXISTS"
        " (SELECT 1 FROM cut k WHERE k.volume = x.volume AND k.inode = x.inode AND k.seq = (1 << 62) - 1 + (1 << 62))",
        "extended attributes and their sum disagree": "SELECT count(*) FROM inode i LEFT JOIN xattr_sum s"
        " ON s.volume = i.volume AND s.inode = i.inode WHERE (coalesce(s.count, 0), coalesce(s.bytes, 0)) !="
        " (SELECT count(*), coalesce(sum(length(x.name) + length(x.value)), 0) FROM xattr x"
        " WHERE x.volume = i.volume AND x.inode = i.inode)",
        "a sum of extended attributes is of no inode": "SELECT count(*) FROM xattr_sum s WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = s.volume AND i.inode = s.inode)",
        "a label or token of no inode": "SELECT (SELECT count(*) FROM label l WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = l.volume AND i.inode = l.inode)) + (SELECT count(*) FROM keyword k"
        " WHERE NOT EXISTS (SELECT 1 FROM inode i WHERE i.volume = k.volume AND i.inode = k.inode))",
        "a token of no name": "SELECT count(*) FROM keyword k WHERE place > 1 AND NOT EXISTS (SELECT 1 FROM dentry d"
        " WHERE d.volume = k.volume AND d.inode = k.inode AND d.dentry = k.place) AND NOT EXISTS (SELECT 1 FROM trash t"
        " WHERE t.volume = k.volume AND t.inode = k.inode AND t.dentry = k.place) AND EXISTS (SELECT 1 FROM inode i"
        " WHERE i.volume = k.volume AND i.inode = k.inode AND i.links > 0)",
        "an extent of no inode will never be reaped": "SELECT count(*) FROM extent e WHERE NOT EXISTS"
        " (SELECT 1 FROM inode i WHERE i.volume = e.volume AND i.inode = e.inode) AND NOT EXISTS"
        " (SELECT 1 FROM cut k WHERE k.volume = e.volume AND k.inode = e.inode AND k.from_mib = 0 AND k.seq > e.seq)",
    }
    wrong = [sentence for sentence, query in checks.items() if connection.execute(query).fetchone()[0]]
    if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
        wrong.append("the file itself is damaged")
    return wrong
