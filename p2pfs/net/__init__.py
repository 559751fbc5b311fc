"""Bytes between nodes: TLS by hand, HTTP/1.1 server and pooled client on trio, and who the other end is.

It knows no chunks and no namespace; see docs/concurrency.md for its tasks and deadlines.
"""
