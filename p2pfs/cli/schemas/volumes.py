"""What commands about volumes and their files print with `--json`."""

from msgspec import UNSET, Struct, UnsetType

from p2pfs.coordinator.report import BackupReport


class Volume(Struct):
    """A volume as the pool knows it."""

    id: str  # sixteen hexadecimal digits
    name: str
    owner: str
    files: int  # inodes
    bytes: int  # of content
    small_file_bytes: int  # files up to this size live in the metadata
    dedup: bool
    created_s: int  # UTC
    trash_removed_s: float  # how long what is removed can be brought back
    trash_expired_s: float  # the same of what has expired
    trash_files: int
    trash_bytes: int
    index_names: bool
    index_prefixes: bool
    distribution: str  # auto, direct, relay or swarm
    quota_bytes: int  # 0: as much as it likes
    quota_files: int  # 0: as many as it likes
    members: int  # how many keys it is shared with
    access: str  # owner; ro or rw: shared with this owner so
    recovery_phrase: str | UnsetType = UNSET  # of volume create without --recovery-file: a secret, shown once


class Listed(Struct):
    """A file or directory of a volume that is listed without a mount."""

    path: str  # from the volume's root
    inode: int
    kind: str  # file, directory, symlink…
    mode: int  # st_mode
    uid: int
    gid: int
    links: int
    size: int
    mtime_ns: int  # UTC


class NamedVolume(Struct):
    """A volume that has another name now, or is back."""

    id: str
    name: str


class Member(Struct):
    """A key that a volume is shared with."""

    fingerprint: str
    nodes: list[str]  # that have it, by name
    access: str  # ro or rw
    since_s: float  # UTC


class Accepted(Struct):
    """A volume that somebody shares."""

    id: str
    signer: str  # the fingerprint of the key that signed it
    access: str  # ro or rw


class Fingerprint(Struct):
    """Of this owner's own key, for others to share volumes with."""

    fingerprint: str
    name: str  # of this node


class Quota(Struct):
    """What a volume holds, and how much it may."""

    id: str
    name: str
    bytes: int
    quota_bytes: int | None  # null: as much as it likes
    files: int  # and directories
    quota_files: int | None


class DeletedVolume(Struct):
    """A volume that can be brought back."""

    id: str
    name: str
    owner: str
    files: int
    bytes: int
    deleted_s: float  # UTC
    purge_s: float  # UTC: then its keys are destroyed


class Checked(Struct):
    """How much was looked at."""

    inodes: int
    directories: int
    chunks: int
    copies: int  # with --data
    bytes_read: int


class FsckFinding(Struct):
    """Something that is wrong. Codes are in docs/fsck.md."""

    code: str
    path: str  # the first of paths; empty: the volume
    paths: list[str]
    inode: int | None
    chunk: str | None
    peer: int | None
    message: str
    state: str  # found, mended or left
    why: str  # not mended
    mend: str  # what --repair does about it
    asks: bool  # that asks first


class Fsck(Struct):
    """What is wrong with a volume."""

    volume: str
    path: str  # what was looked at
    checked: Checked
    findings: list[FsckFinding]
    not_listed: dict[str, int]  # code: how many more
    notes: list[str]
    mended: int
    left: int
    exit_code: int  # this command's


class Slot(Struct):
    """One way of opening a volume."""

    id: str
    kind: str  # passphrase or recovery


class NewRecovery(Struct):
    """Of key add --recovery."""

    recovery_phrase: str  # a secret, shown once
    slots: list[Slot]


class Reservation(Struct):
    """Room that was promised by name."""

    id: int
    volume: str  # its name
    volume_id: str
    owner: str
    bytes: int  # of content
    left_bytes: int  # not stored yet
    short_bytes: int  # of those, what there is no room for any more
    made_s: float  # UTC
    expires_s: float  # UTC


class PeerNamed(Struct):
    """A peer that holds a copy."""

    number: int
    name: str
    node: str
    state: str


class ChunkPlace(Struct):
    """A chunk of a file, and who holds it."""

    index: int  # from the file's beginning, in MiB
    chunk: str  # its id
    size: int  # as stored
    peers: list[PeerNamed]


class Where(Struct):
    """Who holds a file."""

    path: str
    volume: str
    inode: int
    size: int
    inline: bool  # it lives in the coordinator's metadata
    nodes: list[str]  # names
    chunks: list[ChunkPlace]


class Survives(Struct):
    """How many at once may be lost, whichever they are; -1: some of the file cannot be read now."""

    machines: int
    owners: int
    zones: int


class Holder(Struct):
    """A peer that holds chunks of a file."""

    number: int
    name: str
    owner: str
    zone: str
    state: str
    chunks: int  # of the file
    compared_s: float  # UTC: when what it holds was last compared with the index; 0: not since the coordinator started


class Why(Struct):
    """What a file can lose and still be read."""

    path: str
    inline: bool
    chunks: int
    copies_wanted: int
    survives: Survives | None  # null without chunks
    holders: list[Holder]
    backup: BackupReport | None


class Usage(Struct):
    """What the files below a path take. Each chunk, and a file with several names, counts where it is met first."""

    path: str
    size: int  # of the files
    stored: int  # what different chunks take, each once
    with_copies: int
    inline: int  # bytes that live in the coordinator's metadata
    files: int
    directories: int


class Warmth(Struct):
    """What was fetched into a mount's cache. Bytes are sealed ones."""

    files: int
    of_files: int
    fetched_bytes: int
    cached_bytes: int  # were there already
    dropped_bytes: int
    failed: int  # chunks that nobody gave, or the disk did not take
    is_full: bool  # the cache holds no more
    lacking: int  # files of which something failed
    gave_up: bool  # too long nothing came: what is left was not tried
    missing: list[str]  # paths of the first 20 of `lacking`


class Evicted(Struct):
    """What was dropped from a mount's cache."""

    files: int
    dropped_bytes: int


class Stats(Struct):
    """What a mount is doing. Counters are explained in docs/monitoring.md."""

    volume: str
    seconds: float  # between the two looks
    counters: dict[str, int]  # since it was mounted
    rates: dict[str, float]  # a second, between the two looks


class Request(Struct):
    """A request to a mount."""

    line: str


class Lease(Struct):
    """Until when something is kept."""

    path: str
    expires_s: int  # UTC; 0: for ever
    changed: int | UnsetType = UNSET  # by lease set and extend: how many files and directories


class Expiring(Struct):
    """Something whose lease ends soon."""

    inode: int
    path: str
    kind: str
    size: int
    expires_s: int  # UTC


class Trashed(Struct):
    """Something that can be brought back."""

    inode: int  # its number, for trash restore and purge
    path: str  # where it was
    kind: str
    size: int
    reason: str  # removed, replaced or expired
    removed_s: float  # UTC
    purge_s: float  # UTC: from then on it may go


class Restored(Struct):
    """Something that is back."""

    path: str  # where it is now
    was: str  # where it had been


class Purged(Struct):
    """What was let go."""

    purged: int  # files and directories


class Tags(Struct):
    """What a file is found by."""

    path: str
    tags: list[str]
    note: str
    content: bool  # whether it is found by its content
    changed: int | UnsetType = UNSET  # how many files and directories, where something was changed


class Found(Struct):
    """Something that a search found, the most relevant first."""

    inode: int
    path: str
    kind: str
    size: int
    expires_s: int  # UTC; 0: for ever
    copies: int | None  # the fewest of a chunk; null where there are no chunks
    tags: list[str]
    note: str
    relevance: float
    stale: bool  # of search --hash: it may have another content meanwhile
