"""Parser of the XML of CommonRoad, with limits on elements and checks of numbers."""

from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np
from jaxtyping import Float

from waymax_sim.datasets.errors import DataError
from waymax_sim.datasets.scene import INT32

COMMONROAD_REMEDY = "give a CommonRoad scenario of version 2018b or 2020a"
MAX_ELEMENTS = 1_000_000  # the sample has 23,000


def parse_xml(data: bytes) -> Element:
    """The root element.

    Raises:
      DataError: The data are not a CommonRoad file, have more than `MAX_ELEMENTS` elements, or have a document type,
        whose entities could expand without limit or refer to other files.
    """
    builder, num_elements = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal num_elements
        num_elements += 1
        if num_elements > MAX_ELEMENTS:
            raise DataError(f"has more than {MAX_ELEMENTS} elements", remedy=COMMONROAD_REMEDY)
        builder.start(tag, attributes)

    def reject_doctype(*_) -> None:
        raise DataError("has a document type", field="DOCTYPE", remedy=COMMONROAD_REMEDY)

    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, builder.end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = builder.data, reject_doctype
    try:
        parser.Parse(data, True)
    except DataError:
        raise
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise DataError(f"is not XML: {error}", remedy=COMMONROAD_REMEDY) from None
    root = builder.close()
    if root.tag != "commonRoad":
        raise DataError(f"is <{root.tag[:50]}>, not <commonRoad>", remedy=COMMONROAD_REMEDY)
    return root


def child(element: Element, path: str) -> Element:
    """A required descendant of an element."""
    descendant = element.find(path)
    if descendant is None:
        raise DataError(f"missing in {element.tag} {element.get('id', '')}", field=path, remedy=COMMONROAD_REMEDY)
    return descendant


def child_text(element: Element, path: str) -> str:
    """Text of a descendant of an element, "" if there is none."""
    return (element.findtext(path) or "").strip()


def child_number(element: Element, path: str, default: str = "") -> float:
    """The number in a descendant of an element.

    Args:
      element: The element.
      path: Path of the descendant.
      default: Text of an absent descendant; "" if it is required.
    """
    return parse_number(child_text(element, path) or default, path)


def parse_number(text: str, field: str) -> float:
    """A number whose magnitude is below 1e7."""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not abs(value) < 1e7:
        raise DataError(f"{text[:50]!r} is not a number or too large", field=field, remedy=COMMONROAD_REMEDY)
    return value


def parse_integer(text: str, field: str) -> int:
    """A nonnegative integer of at most 31 bits."""
    if not (text.isascii() and text.isdecimal() and len(text) < 11 and int(text) <= INT32.max):
        raise DataError(
            f"{text[:50]!r} is not a nonnegative integer or too large", field=field, remedy=COMMONROAD_REMEDY
        )
    return int(text)


def parse_id(element: Element, name: str) -> int:
    """An id in an attribute of an element."""
    return parse_integer(element.get(name, ""), f"{element.tag}.{name}")


def parse_points(element: Element) -> Float[np.ndarray, "P 3"]:
    """The points in an element, m; at height 0."""
    points = [(child_number(point, "x"), child_number(point, "y"), 0.0) for point in element.iter("point")]
    return np.array(points, np.float64).reshape(-1, 3)
