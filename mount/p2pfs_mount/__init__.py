"""FUSE adapter: translate a request, call vfs, translate the answer back. Nothing else knows pyfuse3."""
