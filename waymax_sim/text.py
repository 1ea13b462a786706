"""Text from files and paths for display."""


def printable(text: object) -> str:
    """One line of text in which every character that is not printable is a backslash escape.

    These are control characters, line and paragraph separators, invisible and bidirectional formatting, unassigned code
    points and lone surrogates, which no encoding can write.
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in line)
