"""Journal files: what is torn or changed shows, and nobody else's key opens them."""

import pytest
from blake3 import blake3

from p2pfs.errors import Corrupt
from p2pfs.format.journal import MAGIC, SALT_BYTES, Ending, Frames, open_frames, whole_bytes
from p2pfs.format.keys import VolumeKeys
from p2pfs.types import VolumeId

pytestmark = pytest.mark.l0

KEYS = VolumeKeys.derive(bytes(range(32)))
OTHER_KEYS = VolumeKeys.derive(bytes(32))
VOLUME = VolumeId(0x0123456789ABCDEF)
SALT = bytes(range(100, 100 + SALT_BYTES))
PLAIN = [b"first", b"", b"a longer one" * 20]


def written(plain: list[bytes] = PLAIN) -> tuple[bytes, list[bytes]]:
    frames = Frames(KEYS, VOLUME, salt=SALT)
    return frames.header, [frames.seal(one) for one in plain]


def whole() -> bytes:
    header, frames = written()
    return header + b"".join(frames)


def test_the_format_is_frozen() -> None:
    """Change the code and not this: a journal outlives the program that wrote it."""
    header, frames = written()
    assert header == b"p2pfsjnl" + b"\x01\x00\x01" + SALT
    assert KEYS.journal.hex() == "f9d1a5edc46b043ff943d9f03eef93e1f09d2361249e1850c445cbcc552a60ed"
    assert frames[0].hex() == "00000015d1ae203ced7e89abcb490e3b926f5361be36044dbe"
    assert blake3(whole()).hexdigest() == "e0e4288828438395acb130e652a872af5d6a16275a79629cf8f22bb1d4f35f16"


def test_what_was_written_is_read() -> None:
    assert open_frames(KEYS, VOLUME, whole()) == (PLAIN, Ending.WHOLE)


def test_a_file_torn_anywhere_gives_the_frames_before() -> None:
    header, frames = written()
    ends = [len(header)]
    for frame in frames:
        ends.append(ends[-1] + len(frame))
    for length in range(len(whole())):
        found, ending = open_frames(KEYS, VOLUME, whole()[:length])
        count = sum(end <= length for end in ends[1:])
        assert found == PLAIN[:count]
        assert ending is (Ending.WHOLE if length in ends else Ending.TORN)
        assert whole_bytes(found) == (ends[count] if count else 0)


def test_zeros_where_the_power_went_are_a_torn_end() -> None:
    header, frames = written()
    assert open_frames(KEYS, VOLUME, header + frames[0] + bytes(5000)) == (PLAIN[:1], Ending.TORN)
    assert open_frames(KEYS, VOLUME, bytes(5000)) == ([], Ending.TORN)


def test_no_flipped_byte_goes_unseen() -> None:
    data = whole()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            found, ending = open_frames(KEYS, VOLUME, bytes(changed))
        except Corrupt:
            assert at < len(MAGIC) + 3
            continue
        assert ending is not Ending.WHOLE
        assert found == PLAIN[: len(found)]
        assert len(found) < len(PLAIN)


def test_frames_keep_their_places() -> None:
    header, frames = written()
    assert open_frames(KEYS, VOLUME, header + frames[1]) == ([], Ending.DAMAGED)
    assert open_frames(KEYS, VOLUME, header + frames[0] + frames[0]) == (PLAIN[:1], Ending.DAMAGED)


def test_another_key_or_volume_opens_nothing() -> None:
    assert open_frames(OTHER_KEYS, VOLUME, whole()) == ([], Ending.DAMAGED)
    assert open_frames(KEYS, VolumeId(VOLUME + 1), whole()) == ([], Ending.DAMAGED)


def test_nothing_of_it_is_in_plain_sight() -> None:
    assert not any(plain and plain in whole() for plain in PLAIN)
    other = Frames(KEYS, VOLUME)
    assert other.header != written()[0]
