"""What may not leave this machine in a bundle: patterns that are taken out of texts, names that are replaced on wish,
and a last look for this home's own secrets in what is about to be packed.

Logs and reports hold no secrets in the first place (docs/privacy.md); this is for the day when that is not so.
"""

import base64
import hashlib
import ipaddress
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from p2pfs.wire.routes import COORDINATOR_ROUTES, PEER_ROUTES

_SHORTEST: Final = 12
"""Bytes of a secret that are looked for: shorter ones are found by chance."""
_LARGEST_SECRET: Final = 65536
_INVITE: Final = re.compile(r"p2pfs\d+-[A-Za-z0-9_-]{8,}")
_BLOCK: Final = re.compile(r"-----BEGIN [A-Z0-9 ]*(?:KEY|KIT)-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL)
_SAID: Final = re.compile(r"(?i)\b(passphrase|password|secret|recovery.?phrase)(\s*[=:]\s*)(?!file|fd)\S.*")
_PATH: Final = re.compile(r"(?<![\w.~/…-])/(?:[^\s:,;\"'“”()<>|]+)")
_HOST_V4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\.\d)")
_HOST_V6: Final = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])")
_PSEUDONYM: Final = re.compile(r"(?:name|address)-[0-9a-f]{8}")
# Names that nobody could be asked for any more: of who was there once, as our own logs and refusals put them.
_NAME: Final = r"\w(?:[\w.-]*\w)?"
_NODE: Final = re.compile(rf"(?<![\w.@-])({_NAME})@({_NAME})")
_VOLUME: Final = re.compile(rf"(?<=\bvolume )(named )?({_NAME})(?: of ({_NAME}))?")
_AFTER_VOLUME: Final = ("is", "was", "has", "of", "to", "in", "on", "at", "with", "by", "and", "cannot", "can", "will")
"""What our sentences go on with behind the word."""
_MOUNTED: Final = re.compile(rf"({_NAME})(?= is mounted at)")
_MOUNTING: Final = re.compile(rf"(?<= is delegated to )({_NAME})(?=:)")
_DIALLED: Final = re.compile(r"(?<![\w.-])(?=[\w.-]*[a-z])([\w-]+(?:\.[\w-]+)+)(?<!\.py)(?=:\d)", re.IGNORECASE)
_LOG: Final = re.compile(rf"(?<=\bmount-)({_NAME})(?=\.log)")  # called by where it is mounted
_ID: Final = re.compile(r"(?<![0-9A-Za-z])((?:[A-Z2-7]{4}-){7}[A-Z2-7]{4}|[0-9a-f]{32})(?![0-9A-Za-z])")
"""A key's fingerprint; a node or a pool."""
_ROUTES: Final = frozenset(f"/{route.path.split('/')[1]}" for route in (*COORDINATOR_ROUTES, *PEER_ROUTES))
_OWN_PLACES: Final = ("/usr/", "/opt/", "/lib/", "/proc/", "/sys/", "/dev/", "/run/systemd/", "/p2pfs")


class Redactor:
    """Makes a text fit to be shown to others. `kept_paths` may stay; with `words`, which are names, they and all
    addresses become pseudonyms that are the same throughout one redactor and tell nothing outside of it."""

    def __init__(self, kept_paths: Iterable[Path] = (), words: Iterable[str] | None = None) -> None:
        self._kept = tuple(f"{path}" for path in kept_paths)
        self._key = os.urandom(32)
        self._names: re.Pattern[str] | None = None
        self._is_anonymous = words is not None
        known = sorted({word for word in words or () if len(word) > 1}, key=len, reverse=True)
        if known:
            self._names = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, known))})(?!\w)")

    def text(self, text: str) -> str:
        """`text` without what looks like a secret, and without paths that are the user's own business."""
        text = _BLOCK.sub("[a key was here]", text)
        text = _INVITE.sub("[an invite was here]", text)
        text = _SAID.sub(r"\1\2[left out]", text)
        if self._is_anonymous:
            text = self._without_names(text)
            text = _HOST_V6.sub(self._address, _HOST_V4.sub(self._address, text))
        return _PATH.sub(self._path, text)

    def value(self, value: Any) -> Any:  # noqa: ANN401 - anything that JSON can hold
        """The same of everything in `value`; keys stay."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.value(inner) for key, inner in value.items()}
        return [self.value(inner) for inner in value] if isinstance(value, list | tuple) else value

    def _without_names(self, text: str) -> str:
        if self._names is not None:
            text = self._names.sub(lambda found: self._pseudonym("name", found[0]), text)
        text = _VOLUME.sub(self._volume, _NODE.sub(self._node, text))
        for pattern in (_MOUNTED, _MOUNTING, _DIALLED, _LOG, _ID):
            text = pattern.sub(lambda found: self._pseudonym("name", found[1]), text)
        return text

    def _node(self, found: re.Match[str]) -> str:
        owner, machine = found[1], found[2]
        if owner.startswith("p2pfs"):  # a unit of systemd
            return f"{owner}@{self._pseudonym('name', machine.removesuffix('.service'))}"
        return f"{self._pseudonym('name', owner)}@{self._pseudonym('name', machine)}"

    def _volume(self, found: re.Match[str]) -> str:
        named, name, owner = found[1] or "", found[2], found[3]
        if not named and name in _AFTER_VOLUME:
            return found[0]
        of = f" of {self._pseudonym('name', owner)}" if owner else ""
        return f"{named}{self._pseudonym('name', name)}{of}"

    def _path(self, found: re.Match[str]) -> str:
        path = found[0]
        is_route = f"/{path.split('/')[1]}" in _ROUTES
        is_ours = any(path == kept or path.startswith(f"{kept}/") for kept in self._kept)
        return path if is_route or is_ours or path.startswith(_OWN_PLACES) else "/…"

    def _address(self, found: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(found[0])
        except ValueError:  # a time, a version
            return found[0]
        is_telling = not (address.is_loopback or address.is_unspecified)
        return self._pseudonym("address", found[0]) if is_telling else found[0]

    def _pseudonym(self, kind: str, text: str) -> str:
        if _PSEUDONYM.fullmatch(text):
            return text
        return f"{kind}-{hashlib.blake2b(text.encode(), key=self._key, digest_size=4).hexdigest()}"


# ---- a last look ----------------------------------------------------------------------------------------------------


def secret_files(home: Path) -> list[Path]:
    """The files of a home, and of the demo it may be part of, that hold a secret as a whole."""
    found = [home / "tls" / "node.key", home / "identity.key"]
    found += [home / "coordinator" / name for name in ("ca.key", "dashboard.key", "secrets.json")]
    if (home.parent / "demo.json").exists():
        found += [home.parent / name for name in ("passphrase", "recovery-phrase", "recovery-kit")]
    return found


class Secrets:
    """What is in secret files, in all the ways in which it might have been written somewhere else."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._patterns = {pattern for file in files for secret in _secrets_in(file) for pattern in _forms(secret)}

    def __repr__(self) -> str:
        return f"Secrets({len(self._patterns)} patterns)"

    def are_in(self, data: bytes) -> bool:
        return any(pattern in data for pattern in self._patterns)


def _secrets_in(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            data = opened.read(_LARGEST_SECRET)
    except OSError:  # not there, or another user's: then it is in nothing that is packed either
        return
    yield data.strip()
    lines = [line for line in data.splitlines() if not line.startswith(b"-----")]
    yield from itertools.chain(*([word, *_decoded(word)] for word in data.split()))
    if len(lines) < data.count(b"\n"):  # PEM, or a kit
        yield from _decoded(b"".join(lines))
        yield from _scalar(data)
    yield from itertools.chain(lines, *map(_decoded, lines))
    with_values = _values(data)
    yield from itertools.chain(with_values, *map(_decoded, with_values))


def _values(data: bytes) -> list[bytes]:
    """The texts in a JSON object."""
    try:
        found = json.loads(data)
    except ValueError:
        return []
    return [value.encode() for value in found.values() if isinstance(value, str)] if isinstance(found, dict) else []


def _decoded(text: bytes) -> list[bytes]:
    """What `text` says in hexadecimal digits or base64."""
    found = []
    for decode in (bytes.fromhex, lambda digits: base64.b64decode(digits, altchars="-_", validate=True)):
        try:
            found.append(decode(text.decode("ascii")))
        except ValueError:
            continue
    return found


def _scalar(pem: bytes) -> list[bytes]:
    """The number that is the private key."""
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        return []
    return (
        [key.private_numbers().private_value.to_bytes(32, "big")] if isinstance(key, ec.EllipticCurvePrivateKey) else []
    )


def _forms(secret: bytes) -> Iterator[bytes]:
    if len(secret) < _SHORTEST:
        return
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for before in range(3):  # base64 of it within something longer: the digits that no neighbour has a share in
        digits = base64.b64encode(bytes(before) + secret)[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        yield digits
        yield digits.translate(bytes.maketrans(b"+/", b"-_"))
