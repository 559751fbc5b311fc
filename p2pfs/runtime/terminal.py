"""Text that somebody else wrote, on its way to a person's terminal."""


def printable(text: str) -> str:
    """The same with nothing that a terminal obeys; as long as before."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
