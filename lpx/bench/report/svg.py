"""Style of the report's figures, and their conversion to SVG with the page's colours."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from lpx.bench.parity.parity import VERDICTS
from lpx.metrics import Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 340
_SERIES = 8
# Matplotlib draws in these colours, and the page's CSS variables take their place in the SVG text.
INK = "#010101"
MUTED = "#010102"
LINE = "#010103"
REAL = "#010104"
FAKE = "#010105"
_VERDICT_COLOURS: dict[str, str] = {
    verdict: f"#0102{index:02x}" for index, verdict in enumerate(VERDICTS)
}
_SERIES_COLOURS = tuple(f"#0103{index:02x}" for index in range(_SERIES))
_DASHES = ((), (6, 2), (1.5, 1.5), (7, 2, 1.5, 2))
STYLE: dict[str, Any] = {
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "path.simplify": False,  # it would drop the dots, which are lines of length 0
    "svg.fonttype": "none",
    "svg.hashsalt": "lpx",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
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


def series_colour(index: int) -> str:
    """Return the colour of an engine's lines, for Matplotlib."""
    return _SERIES_COLOURS[index % _SERIES]


def verdict_colour(verdict: Verdict) -> str:
    """Return the colour of a verdict, for Matplotlib."""
    return _VERDICT_COLOURS[verdict]


def line(index: int) -> dict[str, Any]:
    """Return the style of an engine's lines, for Matplotlib."""
    style: dict[str, Any] = {"color": series_colour(index), "linewidth": 1.6}
    if dashes := _DASHES[index % len(_DASHES)]:
        style |= {"dashes": dashes}
    return style


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
    for name, placeholder in _css_variables().items():
        inner = inner.replace(placeholder, f"var(--{name})")
    return Markup(f'<svg {box} aria-hidden="true" focusable="false">{inner}')


def _css_variables() -> dict[str, str]:
    """Return the colours by the page's names for them."""
    series = {f"s{index}": colour for index, colour in enumerate(_SERIES_COLOURS)}
    plain = {"ink": INK, "muted": MUTED, "line": LINE, "real": REAL, "fake": FAKE}
    return {**plain, **_VERDICT_COLOURS, **series}


def _short(path: str) -> str:
    """Shorten a path to hundredths of a pixel, and its dots to `h0`."""
    path = re.sub(r"-?\d+\.\d+", lambda number: f"{float(number[0]):.2f}", path)
    path = re.sub(r"M (\S+ \S+) \s*L \1(?=\s)", r"M\1h0", path)
    return re.sub(r"\s+", " ", path)
