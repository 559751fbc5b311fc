"""The dashboard: pages for people, on a listener of the coordinator's own.

`service` opens it, `guard` keeps strangers and other sites out, `doors` knows who is logged in, `application` maps
paths to pages, and every other module makes a part of a page. Nothing here decides anything about the pool.
"""
