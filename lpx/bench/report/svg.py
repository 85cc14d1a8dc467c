"""Style of the report's figures, and their conversion to SVG with the page's colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.parity.parity import VERDICTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 340
_SERIES = 8
_NAMES = ("ink", "muted", "line", "real", "fake", *VERDICTS, *(f"s{i}" for i in range(_SERIES)))
# Matplotlib draws in these, and the page's CSS variables take their place in the SVG text.
COLOURS = {name: f"#0101{index + 1:02x}" for index, name in enumerate(_NAMES)}
_DASHES = ((), (6, 2), (1.5, 1.5), (7, 2, 1.5, 2))
STYLE: dict[str, Any] = {
    "axes.edgecolor": COLOURS["line"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "path.simplify": False,  # it would drop the dots, which are lines of length 0
    "svg.fonttype": "none",
    "svg.hashsalt": "lpx",
    "text.color": COLOURS["ink"],
    "text.parse_math": False,
    "xtick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.color": COLOURS["line"],
    "ytick.labelcolor": COLOURS["muted"],
}


def canvas(height: int) -> tuple[Figure, Axes]:
    """Return an empty figure of the common width, `height` points high."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH / 72, height / 72))
    return figure, figure.add_subplot()


def mark(index: int) -> dict[str, str]:
    """Return the style of an engine's lines, for the legends in HTML."""
    dashes = " ".join(f"{1.4 * dash:g}" for dash in _DASHES[index % len(_DASHES)])
    return {"colour": f"var(--s{index % _SERIES})", "dashes": dashes or "none"}


def line(index: int) -> dict[str, Any]:
    """Return the style of an engine's lines, for Matplotlib."""
    colour = COLOURS[f"s{index % _SERIES}"]
    dashes = _DASHES[index % len(_DASHES)]
    return {"color": colour, "linewidth": 1.6} | ({"dashes": dashes} if dashes else {})


def dots(axes: Axes, x: NDArray[np.float32], y: NDArray[np.float32], colour: str) -> None:
    """Draw dots."""
    # One path of lines of length 0 with round caps takes a sixth of the text of markers.
    gaps = np.full(len(x), np.nan)
    points = [np.stack([v, v, gaps], axis=1).ravel() for v in (x, y)]
    axes.plot(*points, color=colour, linewidth=4, alpha=0.55, solid_capstyle="round")


def to_svg(figure: Figure, key: str) -> Markup:
    """Write a figure as an SVG element for the page: ids of its own, the page's colours."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    (box,) = re.findall(r'<svg[^>]*?(viewBox="[^"]*")', text)
    inner = text[text.index(">", text.index("<svg")) + 1 :]
    inner = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", inner, flags=re.S)
    # Ids are the page's: those of two figures must not clash.
    inner = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{key}-", inner).replace("xlink:href", "href")
    inner = re.sub(r' d="[^"]*"', lambda path: _short(path[0]), inner)
    # A fixed colour would ignore the dark theme.
    for name, placeholder in COLOURS.items():
        inner = inner.replace(placeholder, f"var(--{name})")
    return Markup(f'<svg {box} aria-hidden="true" focusable="false">{inner}')


def _short(path: str) -> str:
    """Shorten a path to hundredths of a pixel, and its dots to `h0`."""
    path = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", path)
    path = re.sub(r"M (\S+ \S+) \s*L \1(?=\s)", r"M\1h0", path)
    return re.sub(r"\s+", " ", path)
