"""HTML of texts and tables."""

import html
from collections.abc import Iterable, Sequence

from waymax_sim.text import printable


def escape(text: str) -> str:
    """One line of text in HTML; characters that are not printable are backslash escapes."""
    return html.escape(printable(text))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of texts.

    Args:
      head: Titles of the columns.
      rows: Cells of each row.
      caption: Title of the table.
    """

    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(row(cells, "td") for cells in rows)
    return (
        f"<table><caption>{escape(caption)}</caption>\n<thead>{row(head, 'th')}</thead>\n<tbody>{body}</tbody></table>"
    )
