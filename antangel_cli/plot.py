"""The hit-rate curves of a replay as a picture: SVG or PNG, by the name's ending."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from antangel_cli.errors import UsageError
from antangel_cli.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("svg", "png")
BOUND = "belady"


def plot_kind(output: str) -> str:
    """What a name ends in. Raises UsageError, also where what draws is not installed."""
    kind = Path(output).suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"{output} ends in neither .svg nor .png.", "Name the plot plot.svg or plot.png.")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UsageError(
            "matplotlib draws the plot, and it is not installed.",
            "Install it with pip install 'antangel[plot]', or leave -o out: the table needs nothing.",
            code="no_matplotlib",
        ) from None
    return kind


def write_plot(found: Mapping[str, Any], output: str, force: bool) -> None:
    """Draw the decode hit rates of a replay by share of experts in slots. The same replay gives the same SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    kind = plot_kind(output)
    drawn = io.BytesIO()
    # A fixed salt, no date: else every drawing of the same curves is another file.
    with rc_context({"svg.hashsalt": "antangel", "svg.fonttype": "none"}):
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        _draw(figure.subplots(), found)
        figure.savefig(drawn, format=kind, dpi=150, metadata={"Date": None} if kind == "svg" else None)
    write_whole(output, drawn.getvalue(), force)


def _draw(axes: Axes, found: Mapping[str, Any]) -> None:
    for curve, marker in zip(found["curves"], "os^vDPX*", strict=False):
        points = [point for point in curve["points"] if point["decode_hit_rate"] is not None]
        shares, hits = ([100 * point[key] for point in points] for key in ("share", "decode_hit_rate"))
        bound = curve["policy"] == BOUND
        line, at, color = ("--", "", "black") if bound else ("-", marker, None)
        axes.plot(shares, hits, line, marker=at, color=color, label=curve["policy"], markersize=4, linewidth=1.4)
    axes.plot([0, 100], [0, 100], color="grey", linestyle=":", linewidth=1, label="chance")
    axes.set(
        xlabel="experts in slots, % of all", ylabel="hit rate in steps of one token, %", xlim=(0, 100), ylim=(0, 100)
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
