"""
Values that can be seen: in a notebook by themselves, and as SVG, mermaid or text on request.

The ways to draw, and the pictures, are imported when something is drawn: nearly every value is
drawable, and few are drawn.

`picture_of` is where a layer says what is to be seen of its values; see docs/adr/0022. It is a
`functools.singledispatch` function, so values of your own can join::

    @fibackup.picture_of.register
    def my_picture(value: MyValue) -> fibackup.Picture: ...
"""

from __future__ import annotations

from functools import singledispatch
from importlib import import_module

from attrs import frozen

from fibackup.render.scene import DEFAULT_WIDTH, MOST_ROWS, Scene

__all__ = ["Drawable", "Picture", "picture_of"]

_OURS = __name__.partition(".")[0] + "."


class Drawable:
    """A value that has a picture. Drawing touches nothing but the value."""

    __slots__ = ()

    def picture(self) -> Picture:
        """
        Return what is to be seen of the value.

        Source:
            docs/explore.md.
        """
        return picture_of(self)

    def to_svg(self, *, most_rows: int | None = MOST_ROWS) -> str:
        """
        Draw the value as an SVG document.

        Args:
            most_rows: Images of a chain that are drawn before its middle is folded; None: all.

        Returns:
            Text for a file: light and dark, no script, nothing from elsewhere; the same for equal
            values.

        Source:
            SVG 1.1; docs/explore.md.
        """
        from fibackup.render.svg import draw_svg

        return draw_svg(self.picture(), most_rows=most_rows)

    def to_mermaid(self, *, most_rows: int | None = MOST_ROWS) -> str:
        """
        Draw the value as a mermaid flowchart.

        Args:
            most_rows: Images of a chain that are drawn before its middle is folded; None: all.

        Returns:
            Text for a fence of a wiki or a page; the same for equal values.

        Source:
            Mermaid, "Flowcharts"; docs/explore.md.
        """
        from fibackup.render.mermaid import draw_mermaid

        return draw_mermaid(self.picture(), most_rows=most_rows)

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from fibackup.render.notebook import draw_html

        return draw_html(self.picture(), text=str(self))

    def _repr_svg_(self) -> str:
        """Return what is shown where there is no HTML, as in a PDF."""
        return self.to_svg()


@frozen
class Picture(Scene, Drawable):
    """
    What is to be seen of a value; show it in a notebook, print it, or save it as SVG.

    Attributes:
        title: Its name.
        facts: What is to be known first: state, sizes, UUID.
        sections: One for each disk.
        tables: Facts in rows.
        notes: Warnings.
    """

    def picture(self) -> Picture:
        """
        Return the picture itself.

        Source:
            docs/explore.md.
        """
        return self

    def to_text(self, *, width: int = DEFAULT_WIDTH, most_rows: int | None = None) -> str:
        """
        Draw it for a terminal.

        Args:
            width: Columns of the terminal, 50 or more.
            most_rows: Images of a chain that are drawn before its middle is folded; None: all.

        Returns:
            Lines, escaped for a terminal.

        Source:
            docs/explore.md.
        """
        from fibackup.render.text import draw_text

        return draw_text(self, width=width, most_rows=most_rows)

    def __str__(self) -> str:
        """Return it as drawn for a terminal."""
        return self.to_text()


@singledispatch
def picture_of(value: object) -> Picture:
    """
    Return what is to be seen of a value.

    Args:
        value: A `BackingChain`, `Domain`, `RestorePoint`, `History`, `Plan`, `Report`, or a value
            whose type was registered.

    Returns:
        The picture.

    Raises:
        TypeError: Nobody has said what is to be seen of such a value.

    Source:
        docs/adr/0022: each layer says it of its own values.
    """
    kind = type(value)
    for each in kind.__mro__:
        _import_pictures(each.__module__.rpartition(".")[0])
    picture = picture_of.dispatch(kind)
    if picture is picture_of.dispatch(object):
        raise TypeError(f"{kind.__name__} has no picture")
    return picture(value)


def _import_pictures(package: str) -> None:
    """Import what registers the pictures of the values of a package of ours, if anything does."""
    pictures = f"{package}.pictures"
    if package.startswith(_OURS):
        try:
            import_module(pictures)
        except ModuleNotFoundError as error:
            if error.name != pictures:  # it is there, and something else is missing
                raise
