"""Damage for tests: one bit at a time."""


def flipped(data: bytes, bit: int) -> bytes:
    """`data` with one bit turned over; bit 0 is the lowest of the first byte."""
    touched = bytearray(data)
    touched[bit // 8] ^= 1 << bit % 8
    return bytes(touched)
