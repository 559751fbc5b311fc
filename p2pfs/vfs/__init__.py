"""File semantics without FUSE: the tree, handles, what is dirty, reading and writing."""
