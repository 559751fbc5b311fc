"""sd_notify in a few lines: tells systemd (or whoever set NOTIFY_SOCKET) how a service is doing. Silent elsewhere."""

import os
import socket


def notify(state: str) -> bool:
    """Send `state`, such as "READY=1", "STOPPING=1" or "STATUS=…"; whether somebody wanted to know."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # abstract name
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.connect(address)
            sender.send(state.encode())
    except OSError:  # a service works without its supervisor listening
        return False
    return True
