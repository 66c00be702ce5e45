"""Pictures of the plotting library as parts of a page: its colours follow the page's, its text is the page's text."""

import base64
import re
from typing import Final
from xml.etree import ElementTree as ET

from markupsafe import Markup

from miniplm_assets.evaluation import line_styles
from miniplm_assets.evaluation.report.characters import visible

SVG: Final = "http://www.w3.org/2000/svg"
# As the library has them for everything in a picture.
LINES: Final = "stroke-linejoin: round; stroke-linecap: butt"
LINK: Final = "{http://www.w3.org/1999/xlink}href"
# What the pictures are drawn with, and what the page calls it; a page that is dark has others under these names.
NAMES: Final = {
    "#000000": "currentColor",
    line_styles.INK: "currentColor",
    line_styles.GREY: "var(--grey)",
    line_styles.PALE: "var(--pale)",
    line_styles.BLUE: "var(--blue)",
    line_styles.ORANGE: "var(--orange)",
    line_styles.GREEN: "var(--green)",
    line_styles.PURPLE: "var(--purple)",
    line_styles.SKY: "var(--sky)",
    line_styles.RED: "var(--red)",
}
_BY_COLOUR: Final = {colour.lower(): name for colour, name in NAMES.items()}
_COLOUR: Final = re.compile(r"#[0-9a-fA-F]{6}\b")
_REFERENCE: Final = re.compile(r"url\(#([^)]+)\)")
_NUMBER: Final = re.compile(r"-?\d+\.\d+")
_FONT: Final = re.compile(r"\bfont: (?:(\w+) )?([\d.]+px) [^;]+")


def inline_svg(svg: bytes, *, name: str, title: str, about: str) -> Markup:
    """Return a picture as a part of an HTML page.

    Args:
        svg: as the plotting library writes it.
        name: unique in the page: two pictures share no id.
        title: what it shows, read out in its place.
        about: more of that.
    """
    root = ET.fromstring(svg)  # noqa: S314
    for metadata in root.findall(f"{{{SVG}}}metadata"):
        root.remove(metadata)
    for definitions in root.findall(f"{{{SVG}}}defs"):
        for style in definitions.findall(f"{{{SVG}}}style"):
            definitions.remove(style)  # it would hold for the whole page
    root.set("style", LINES)
    _prefix_ids(root, name)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        for attribute in ("style", "fill", "stroke"):
            if attribute in element.attrib:
                element.set(attribute, _styled(element.attrib[attribute]))
    _make_lean(root)
    return _labelled(root, name, title, about)


def stored_picture(png: bytes, *, title: str) -> Markup:
    """Return a picture that is stored already as a part of an HTML page."""
    content = base64.b64encode(png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(visible(title), content)


def _labelled(root: ET.Element, name: str, title: str, about: str) -> Markup:
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"role": "img", "aria-labelledby": f"{name}-title {name}-about"}
    for place, (tag, text) in enumerate((("title", title), ("desc", about))):
        label = ET.Element(tag, {"id": f"{name}-{'about' if tag == 'desc' else tag}"})
        label.text = visible(text)
        root.insert(place, label)
    return Markup(ET.tostring(root, encoding="unicode"))  # noqa: S704 - the serialiser escapes


def _make_lean(root: ET.Element) -> None:
    """Drop what nobody sees: indentation, digits of coordinates; and draw bars of one colour as one path."""
    for element in root.iter():
        if element.tag != "text":
            element.text = (element.text or "").strip() or None
        element.tail = None
        if "d" in element.attrib:
            numbers = _NUMBER.sub(lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), element.attrib["d"])
            element.set("d", " ".join(numbers.split()))
    for parent in list(root.iter()):
        before: ET.Element | None = None
        for group in list(parent):
            path = group[0] if group.tag == "g" and len(group) == 1 and group[0].tag == "path" else None
            if path is not None and before is not None and _looks(path) == _looks(before):
                before.set("d", f"{before.attrib['d']} {path.attrib['d']}")
                parent.remove(group)
            else:
                before = path


def _looks(path: ET.Element) -> dict[str, str]:
    return {name: value for name, value in path.attrib.items() if name != "d"}


def _prefix_ids(root: ET.Element, name: str) -> None:
    """Keep the ids that something refers to, each with the name of the picture before it."""
    referred: set[str] = set()
    for element in root.iter():
        for attribute, value in element.attrib.items():
            referred |= {value[1:]} if attribute == LINK else set(_REFERENCE.findall(value))
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in referred:
            element.set("id", f"{name}-{own}")
        for attribute, value in list(element.attrib.items()):
            if attribute == LINK:
                del element.attrib[attribute]
                element.set("href", f"#{name}-{value[1:]}")
            elif "url(#" in value:
                element.set(attribute, _REFERENCE.sub(rf"url(#{name}-\1)", value))


def _styled(style: str) -> str:
    named = _COLOUR.sub(lambda found: _BY_COLOUR.get(found.group().lower(), found.group()), style)
    return _FONT.sub(lambda found: f"font-size: {found[2]}" + ("; font-weight: bold" if found[1] else ""), named)
