"""Keys: sub-keys differ, slots open with their secret only, weak or absurd slots are refused."""

import msgspec
import pytest
from bits import flipped
from hypothesis import given
from hypothesis import strategies as st

from p2pfs.errors import Corrupt, Denied, Invalid
from p2pfs.format import keys, phrases
from p2pfs.format.keys import VolumeKeys, WrongKey, new_master, unwrap, unwrap_any, wrap_passphrase, wrap_recovery
from p2pfs.wire.volumes import KeySlot

pytestmark = pytest.mark.l0

MASTER = bytes(range(32))
FLOOR = 64  # KiB: the smallest sensible Argon2id, so that tests are quick


def weak_slot(passphrase: str = "open sesame", memory_kib: int = FLOOR, passes: int = 1, lanes: int = 1) -> KeySlot:
    return wrap_passphrase(MASTER, passphrase, memory_kib=memory_kib, passes=passes, lanes=lanes)


def test_sub_keys_are_fixed_by_the_master_key_and_differ_from_each_other() -> None:
    one, again, other = VolumeKeys.derive(MASTER), VolumeKeys.derive(MASTER), VolumeKeys.derive(bytes(32))
    assert (one.check, one.content, one.digest, one.tag) == (again.check, again.content, again.digest, again.tag)
    made = [one.check, one.content, one.digest, one.tag, other.check, other.content, other.digest, other.tag]
    assert len({key[:16] for key in made}) == 8
    sealed = {siv.encrypt(b"x", [b""]) for siv in (one.extents, one.heads, one.names, one.values)}
    assert len(sealed) == 4


def test_keys_are_never_shown() -> None:
    made = VolumeKeys.derive(MASTER)
    shown = repr(made) + str(made) + f"{made}"
    for key in (made.content, made.digest, made.tag, MASTER):
        assert key.hex() not in shown
        assert repr(key) not in shown
    assert made.check.hex() in shown


def test_keys_cannot_be_changed() -> None:
    made = VolumeKeys.derive(MASTER)
    with pytest.raises(AttributeError):
        made.content = bytes(32)  # type: ignore[misc]


def test_master_keys_are_random_and_32_bytes() -> None:
    made = {new_master() for _ in range(10)}
    assert len(made) == 10
    assert {len(key) for key in made} == {32}
    with pytest.raises(Corrupt):
        VolumeKeys.derive(bytes(31))


def test_a_passphrase_slot_opens_with_its_passphrase_only() -> None:
    slot = weak_slot()
    assert slot.kind == "passphrase"
    assert MASTER not in slot.wrapped
    assert unwrap(slot, "open sesame", floor_kib=FLOOR) == MASTER
    for wrong in ("open Sesame", "open sesame ", "x"):
        with pytest.raises(WrongKey):
            unwrap(slot, wrong, floor_kib=FLOOR)
    assert issubclass(WrongKey, Denied)


def test_two_slots_of_one_passphrase_have_nothing_in_common() -> None:
    one, two = weak_slot(), weak_slot()
    assert one.wrapped[13:] != two.wrapped[13:]
    assert one.wrapped[-48:] != two.wrapped[-48:]


def test_a_passphrase_is_the_same_however_its_letters_are_composed() -> None:
    assert unwrap(weak_slot("caf\u00e9"), "cafe\u0301", floor_kib=FLOOR) == MASTER


def test_an_empty_passphrase_is_refused() -> None:
    with pytest.raises(Invalid):
        wrap_passphrase(MASTER, "", memory_kib=FLOOR, passes=1, lanes=1)
    with pytest.raises(Invalid):
        unwrap(weak_slot(), "", floor_kib=FLOOR)


def test_the_defaults_are_what_clients_accept() -> None:
    slot = wrap_passphrase(MASTER, "open sesame")
    assert unwrap(slot, "open sesame") == MASTER


@pytest.mark.parametrize(
    ("memory_kib", "passes", "lanes"),
    [
        (256 * 1024 - 1, 3, 4),
        (256 * 1024, 2, 4),
        (2 * 1024 * 1024 + 1, 3, 4),
        (256 * 1024, 65, 4),
        (256 * 1024, 3, 65),
        (256 * 1024, 3, 0),
        (0, 0, 0),
        (2**32 - 1, 2**32 - 1, 2**32 - 1),
    ],
)
def test_slots_that_are_weaker_or_dearer_than_allowed_are_refused_before_any_work(
    memory_kib: int, passes: int, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs = b"".join(value.to_bytes(4, "big") for value in (memory_kib, passes, lanes))
    slot = weak_slot()
    changed = KeySlot(slot.kind, slot.wrapped[:1] + costs + slot.wrapped[13:])
    monkeypatch.setattr(keys, "_stretch", lambda head, secret: pytest.fail("worked"))
    with pytest.raises(Corrupt):
        unwrap(changed, "open sesame")


def test_every_single_bit_of_a_passphrase_slot_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "ARGON2_MOST_MEMORY_KIB", 1024)  # some flips ask for more memory
    slot = weak_slot()
    for bit in range(len(slot.wrapped) * 8):
        changed = KeySlot(slot.kind, flipped(slot.wrapped, bit))
        with pytest.raises((Corrupt, WrongKey)):
            unwrap(changed, "open sesame", floor_kib=8)


def test_every_single_bit_of_a_recovery_slot_matters() -> None:
    slot, phrase = wrap_recovery(MASTER)
    for bit in range(len(slot.wrapped) * 8):
        with pytest.raises((Corrupt, WrongKey)):
            unwrap(KeySlot(slot.kind, flipped(slot.wrapped, bit)), phrase)


def test_a_slot_of_a_newer_version_is_not_called_a_wrong_passphrase() -> None:
    recovery, phrase = wrap_recovery(MASTER)
    for slot, secret in ((recovery, phrase), (weak_slot(), "open sesame")):
        with pytest.raises(Corrupt, match="newer version"):
            unwrap(KeySlot(slot.kind, b"\x02" + slot.wrapped[1:]), secret, floor_kib=FLOOR)


def test_slots_cannot_be_cut_or_of_another_kind() -> None:
    slot, phrase = wrap_recovery(MASTER)
    for length in range(len(slot.wrapped)):
        with pytest.raises(Corrupt):
            unwrap(KeySlot(slot.kind, slot.wrapped[:length]), phrase)
    with pytest.raises(Corrupt):
        unwrap(KeySlot("passphrase", slot.wrapped), phrase)
    with pytest.raises(Corrupt):
        unwrap(KeySlot("public key", slot.wrapped), phrase)


def test_a_recovery_slot_opens_with_its_phrase_however_it_is_typed() -> None:
    slot, phrase = wrap_recovery(MASTER)
    assert slot.kind == "recovery"
    assert len(phrase) == 35
    assert unwrap(slot, phrase) == MASTER
    sloppy = phrase.lower().replace("-", " ").replace("0", "o").replace("1", "l") + "\n"
    assert unwrap(slot, sloppy) == MASTER
    assert unwrap(slot, phrase.replace("0", "O").replace("1", "I").replace("-", "")) == MASTER


def test_another_phrase_or_none_does_not_open_a_recovery_slot() -> None:
    slot, _ = wrap_recovery(MASTER)
    _, other = wrap_recovery(MASTER)
    for wrong in (other, "", "hello", other[:-1]):
        with pytest.raises(WrongKey):
            unwrap(slot, wrong)


@given(st.binary(min_size=16, max_size=16))
def test_phrases_and_secrets_are_one_to_one(secret: bytes) -> None:
    phrase = phrases.encode(secret)
    assert phrases.decode(phrase) == secret
    assert phrases.is_phrase(phrase)
    assert [len(group) for group in phrase.split("-")] == [5] * 6
    assert not set(phrase) & set("ILOU")


@given(st.binary(min_size=16, max_size=16), st.integers(0, 29), st.sampled_from("0123456789ABCDEFGHJKMNPQRSTVWXYZ"))
def test_a_mistyped_letter_is_noticed(secret: bytes, at: int, letter: str) -> None:
    letters = phrases.encode(secret).replace("-", "")
    typed = letters[:at] + letter + letters[at + 1 :]
    if typed != letters and phrases.is_phrase(typed):
        # One in four million: the checksum has 22 bits. Then it is another phrase, not this one.
        assert phrases.decode(typed) != secret
    elif typed != letters:
        with pytest.raises(Invalid, match="mistyped"):
            phrases.decode(typed)


def test_most_typos_are_told_apart_from_wrong_phrases() -> None:
    letters = phrases.encode(bytes(16)).replace("-", "")
    for at in range(30):
        assert not phrases.is_phrase(letters[:at] + "7" + letters[at + 1 :])
    with pytest.raises(Invalid, match="'U'"):
        phrases.decode("U" * 30)
    with pytest.raises(Invalid, match="has 4"):
        phrases.decode("abcd")


def test_whichever_slot_fits_is_opened() -> None:
    recovery, phrase = wrap_recovery(MASTER)
    slots = [weak_slot("first"), recovery, weak_slot("second")]
    for secret in ("first", "second", phrase):
        assert unwrap_any(slots, secret, floor_kib=FLOOR) == MASTER


def test_a_phrase_is_not_stretched_and_a_passphrase_may_look_like_one(monkeypatch: pytest.MonkeyPatch) -> None:
    recovery, phrase = wrap_recovery(MASTER)
    assert unwrap_any([recovery, weak_slot(phrase)], phrase, floor_kib=FLOOR) == MASTER
    assert unwrap_any([weak_slot(phrase)], phrase, floor_kib=FLOOR) == MASTER
    monkeypatch.setattr(keys, "_stretch", lambda head, secret: pytest.fail("stretched"))
    assert unwrap_any([weak_slot_made_before, recovery], phrase, floor_kib=FLOOR) == MASTER


weak_slot_made_before = weak_slot()


def test_when_no_slot_fits_the_error_is_of_the_kind_that_was_meant() -> None:
    recovery, _ = wrap_recovery(MASTER)
    with pytest.raises(WrongKey, match="not the passphrase"):
        unwrap_any([recovery, weak_slot()], "wrong", floor_kib=FLOOR)
    with pytest.raises(Corrupt, match="too weak"):
        unwrap_any([recovery, weak_slot()], "open sesame")
    with pytest.raises(WrongKey, match="no key slot"):
        unwrap_any([], "x")
    with pytest.raises(Corrupt, match="17 key slots"):
        unwrap_any([recovery] * 17, "x")


def test_slots_cross_the_wire_unchanged() -> None:
    slot = weak_slot()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(slot), type=KeySlot) == slot
