"""TLS over any stream, by hand: an `ssl.MemoryBIO` pair, 128 KiB receives, records drained without checkpoints.

It costs half to a third of `trio.SSLStream` (measured: docs/performance.md). Not a trio stream: sends take parts, so
that nobody joins buffers, and receives go straight into the caller's. It sets no deadlines; its users do. One task may
receive while another sends, never two the same.
"""

import contextlib
import ssl
from collections.abc import Sequence
from typing import Final

import trio

from p2pfs.errors import Denied, Misuse, Unavailable
from p2pfs.net.paced import wire_of
from p2pfs.net.wires import Stall
from p2pfs.types import KIB, Buffer

_SEND_BYTES: Final = 128 * KIB
"""Plain bytes sealed before they are handed to the kernel. OpenSSL keeps this much, and as much for receiving, as long
as the connection lives; 64 to 256 KiB cost the same CPU within the noise."""
_RECEIVE_SOME_BYTES: Final = 16 * KIB  # one TLS record

# Alerts and local verdicts that mean "you are not let in", as opposed to "the network is bad". From <openssl/sslerr.h>.
_DENIALS: Final = frozenset(
    {
        "CERTIFICATE_VERIFY_FAILED",
        "PEER_DID_NOT_RETURN_A_CERTIFICATE",
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)


class TlsStream:
    """One TLS connection over `transport`, which belongs to it from then on.

    Cancellation: a cancelled send leaves half a record behind, after which the stream only closes; a cancelled receive
    loses nothing.

    Raises (every method): Unavailable when the connection is gone or broken, Denied when either end refuses the other's
    certificate.
    """

    __slots__ = ("_incoming", "_is_sending", "_outgoing", "_ssl", "_unsent", "_wire")

    def __init__(self, transport: trio.abc.Stream, context: ssl.SSLContext, *, server_side: bool) -> None:
        self._wire = wire_of(transport)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._incoming, self._outgoing, server_side=server_side)
        self._is_sending = False
        self._unsent: Buffer = b""  # sealed, and the kernel had no room

    @property
    def peer_certificate(self) -> bytes | None:
        """DER, after the handshake; None when the other end showed none."""
        return self._ssl.getpeercert(binary_form=True)

    @property
    def stall(self) -> Stall | None:
        """Told of every byte that moves, while set."""
        return self._wire.stall

    @stall.setter
    def stall(self, stall: Stall | None) -> None:
        self._wire.stall = stall

    def arrived(self) -> int:
        """Bytes that have come, as they travel; see `net.watch`."""
        return self._wire.arrived()

    def moved(self) -> int:
        """These and what was sent and acknowledged."""
        return self._wire.moved()

    def is_readable(self) -> bool:
        """Whether an idle connection has something to say, which is its end or a mistake."""
        return self._wire.is_readable()

    async def do_handshake(self) -> None:
        """Agree on keys; in TLS 1.3 a refusal of *our* certificate may come only with the first receive."""
        while True:
            try:
                self._ssl.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._wire.fill(self._incoming)
            except ssl.SSLError as error:
                raise _mapped(error) from None
            else:
                await self._flush()
                return

    async def send_all(self, parts: Sequence[Buffer]) -> None:
        """Send the concatenation of `parts`, which nobody may change meanwhile.

        Takes a checkpoint only where the kernel has no room.
        """
        if self._is_sending:
            raise Misuse("another task sends on this connection, or one was cancelled while it did")
        self._is_sending = True
        try:
            for part in parts:
                view = memoryview(part)
                for start in range(0, len(view), _SEND_BYTES):
                    self._ssl.write(view[start : start + _SEND_BYTES])
                    if self._outgoing.pending >= _SEND_BYTES:
                        await self._flush()
            await self._flush()
        except ssl.SSLError as error:
            raise _mapped(error) from None
        self._is_sending = False  # not in a `finally`: see *Cancellation*

    def send_nowait(self, parts: Sequence[Buffer]) -> bool:
        """Seal all of `parts`, which are few, and send what the kernel takes at once; takes no checkpoint. False when
        that is not everything: then `send_all` sends the rest first."""
        if self._is_sending:
            raise Misuse("another task sends on this connection, or one was cancelled while it did")
        self._is_sending = True
        try:
            for part in parts:
                if part:
                    self._ssl.write(part)
        except ssl.SSLError as error:
            raise _mapped(error) from None
        sealed = self._outgoing.read()
        if self._unsent:
            self._unsent = b"".join((self._unsent, sealed))
        else:
            self._unsent = memoryview(sealed)[self._wire.write_nowait(sealed) :]
        self._is_sending = False
        return not self._unsent

    @property
    def sends_now(self) -> bool:
        """Whether `send_nowait` would try."""
        return self._wire.sends_now

    async def receive_into(self, view: memoryview, expected: int = 1) -> int:
        """Fill `view` with what has arrived, waiting for at least one byte; 0 at the end of the stream. If nothing can
        be done before `expected` bytes are there, which are sure to come, the wait may last until most of them are.

        Takes a checkpoint only where nothing has arrived.
        """
        read, total = self._ssl.read, 0
        while total < len(view):
            if self._is_dry():  # else OpenSSL would have to raise it
                if not total:
                    await self._wire.fill(self._incoming, expected)
                elif total >= expected or not self._wire.take(self._incoming):
                    break
                continue
            try:
                count = read(len(view) - total, view[total:])
            except ssl.SSLWantReadError:  # a part of a record; it is dry now
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                # Without close_notify too: bodies are counted, so that a cut connection cannot pass for a short body.
                break
            except ssl.SSLError as error:
                if total:
                    break  # it is raised again by the next call
                raise _mapped(error) from None
            if not count:
                break
            total += int(count)
        return total

    async def receive_some(self) -> bytes:
        """Up to one record; empty at the end of the stream."""
        view = memoryview(bytearray(_RECEIVE_SOME_BYTES))
        return bytes(view[: await self.receive_into(view)])

    async def finish(self) -> None:
        """Tell the other end that nothing more comes, and go on receiving."""
        await self._flush()
        await self._wire.finish()

    async def drain(self, limit: int) -> None:
        """Throw away what still arrives, up to about `limit` bytes or the end of the stream, without deciphering it."""
        while limit > 0:
            refuse = ssl.MemoryBIO()
            if not await self._wire.fill(refuse):
                return
            limit -= refuse.pending

    async def aclose(self) -> None:
        """Close, telling the other end if that is possible at once. Ends within a second, cancelled or not."""
        last = b""
        if not self._is_sending and not self._unsent:  # else the other end waits for the rest of a record
            with contextlib.suppress(ssl.SSLError, ValueError):  # it asks for the other end's farewell: we do not wait
                self._ssl.unwrap()
            last = self._outgoing.read()
        await self._wire.close(last)

    def _is_dry(self) -> bool:
        """Whether nothing can be read before more has arrived; False also when that is not known."""
        return not (self._incoming.pending or self._ssl.pending() or self._incoming.eof)

    async def _flush(self) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            await self._wire.write(unsent)
        data = self._outgoing.read()
        if data:
            await self._wire.write(data)


def _mapped(error: ssl.SSLError) -> Denied | Unavailable:
    reason = error.reason or type(error).__name__
    if reason in _DENIALS:
        return Denied(f"the connection was refused: {reason.lower().replace('_', ' ')}")
    return Unavailable(f"TLS failed: {reason.lower().replace('_', ' ')}")
