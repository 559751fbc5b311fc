"""What a peer offers to the pool: kinds of resources, rules for them, and the rules at work.

`kinds` says what a kind is, `registry` which there are, `book` holds a peer's rules and keeps to them. The words of the
command and of the configuration come from the registry, so that a new kind needs nothing else.
"""
