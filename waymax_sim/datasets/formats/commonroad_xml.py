"""The XML of CommonRoad: parsed with bounds, and its numbers checked as they are read."""

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import INT32

REMEDY = "is it a CommonRoad scenario of version 2018b or 2020a?"
MAX_ELEMENTS = 1_000_000  # the sample has 23,000


def parse(data: bytes) -> Element:
    """The root element.

    Raises:
      DataError: The data are no CommonRoad file, or have absurdly many elements, or a document type: its entities
        could grow without bound or name other files.
    """
    builder, left = TreeBuilder(), MAX_ELEMENTS

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise DataError(f"has more than {MAX_ELEMENTS} elements", remedy=REMEDY)
        builder.start(tag, attributes)

    def refuse(*_) -> None:
        raise DataError("has a document type", field="DOCTYPE", remedy=REMEDY)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, refuse
    try:
        parser.Parse(data, True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"not XML: {error}", remedy=REMEDY) from None
    root = builder.close()
    if root.tag != "commonRoad":
        raise DataError(f"is <{root.tag[:50]}>, not <commonRoad>", remedy=REMEDY)
    return root


def child(element: Element, path: str) -> Element:
    """An element below that must be there."""
    found = element.find(path)
    if found is None:
        raise DataError(f"missing below {element.tag} {element.get('id', '')}", field=path, remedy=REMEDY)
    return found


def text_of(element: Element, path: str) -> str:
    """Text of an element below, "" where there is none."""
    return (element.findtext(path) or "").strip()


def number_of(element: Element, path: str, default: str = "") -> float:
    """The number that an element below holds."""
    return number(text_of(element, path) or default, path)


def number(text: str, field: str) -> float:
    """A number that is small enough not to overflow later on."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) < 1e7:
        raise DataError(f"{text[:50]!r} is no number or absurdly large", field=field, remedy=REMEDY)
    return value


def whole(text: str, field: str) -> int:
    """A whole number that fits 32 bits and is not negative."""
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and int(text) <= INT32.max):
        raise DataError(f"{text[:50]!r} is no whole number or too large", field=field, remedy=REMEDY)
    return int(text)


def id_of(element: Element, name: str) -> int:
    """An attribute that is an id."""
    return whole(element.get(name, ""), f"{element.tag}.{name}")


def points_of(element: Element) -> Float[np.ndarray, "P 3"]:
    """The points below an element, m; at height 0."""
    points = [(number_of(point, "x"), number_of(point, "y"), 0.0) for point in element.iter("point")]
    return np.array(points, np.float64).reshape(-1, 3)
