"""Figure of what each group costs in INT8."""

from __future__ import annotations

import io
from collections.abc import Sequence

from lpx.search.sensitivity import GroupSensitivity

_LOSS, _NO_LOSS = "#b00020", "#2f6db3"
_ROW_INCHES = 0.19
# More rows cannot be read.
_MOST = 80


def draw_sensitivities(groups: Sequence[GroupSensitivity], title: str) -> bytes:
    """Draw AUC differences with their intervals, the worst group at the top; PNG.

    Args:
        groups: In order; the first 80 are drawn.
        title: Title of the figure.
    """
    import matplotlib.style
    from matplotlib.figure import Figure

    shown = groups[:_MOST]
    # The default style: a user's own must not change the figure.
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(9, 1.6 + _ROW_INCHES * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        for row, one in enumerate(shown):
            difference = one.auc_difference
            colour = _LOSS if difference.high < 0 else _NO_LOSS
            axes.plot([difference.low, difference.high], [row, row], color=colour, linewidth=1)
            axes.plot(difference.estimate, row, "o", color=colour, markersize=4)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(
            ylim=(len(shown) - 0.5, -0.5),
            xlabel="AUC in INT8 less AUC in float, 95 % interval (red: a loss)",
        )
        # Matplotlib would read a name with two dollar signs as a formula.
        axes.set_title(title, parse_math=False)
        axes.set_yticks(range(len(shown)), [one.group.name for one in shown], fontsize=7)
        for label in axes.get_yticklabels():
            label.set_parse_math(False)
        axes.grid(axis="x", alpha=0.3)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=120)
    return data.getvalue()
