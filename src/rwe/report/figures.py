"""From a matplotlib Figure to an inline SVG: fit to stand beside others, the same bytes every time."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Final

import matplotlib as mpl
from matplotlib.figure import Figure

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
INK: Final = "#1c2430"
MUTED: Final = "#55606e"
RULE: Final = "#c9d0d8"
GREY_DARK: Final = "#4a4a4a"
GREY_LIGHT: Final = "#6f6f6f"
WARNING_INK: Final = "#9a3c00"
FONT_POINTS: Final = 9.0

_STYLE: Final = {
    # Text stays text: small, selectable and searchable. The page's own font replaces the family below,
    # so every label has room for a font as wide as DejaVu Sans, which matplotlib measures with.
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": FONT_POINTS,
    "text.color": INK,
    "text.usetex": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "hatch.linewidth": 0.6,
    "path.simplify": False,
}


def new_figure(width_points: float, height_points: float) -> Figure:
    """An empty figure of this size; no pyplot, so nothing is shared between figures."""
    return Figure(figsize=(width_points / 72, height_points / 72), dpi=72)


def style(figure_id: str) -> mpl.RcParams:
    """The settings to draw and save `figure_id` under, for `mpl.rc_context`."""
    return mpl.RcParams({**mpl.rcParams, **_STYLE, "svg.hashsalt": figure_id})


def inline_svg(figure: Figure, figure_id: str, title: str, summary: str) -> str:
    """The figure as one `<svg>` element. Call under `mpl.rc_context(style(figure_id))`.

    Ids get the prefix `figure_id`, so that several figures share a page. No date, no creator, no metadata;
    coordinates keep two decimals of a point. `title` and `summary` are what a screen reader says.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # A style element inside an inline SVG would apply to the whole page: the page's own CSS says it instead.
    body = re.sub(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = _rename_ids(_shorten(body), figure_id)
    width, height = (72 * float(side) for side in figure.get_size_inches())
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
        f'aria-labelledby="{figure_id}-title {figure_id}-summary">'
        f'<title id="{figure_id}-title">{escape(title)}</title>'
        f'<desc id="{figure_id}-summary">{escape(summary)}</desc>'
    )
    return head + re.sub(r"\n\s*", "\n", body).strip() + "</svg>"


def _shorten(body: str) -> str:
    """Drop font families (the page has its own) and digits below a hundredth of a point in paths."""
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"font: (?:(\w+) )?([\d.]+px) [^;\"]*", _font, body)
    return re.sub(r' d="([^"]*)"', _path, body)


def _path(match: re.Match[str]) -> str:
    shorter = re.sub(r"(\d+\.\d{2})\d+", r"\1", match.group(1))
    return f' d="{_straight(shorter)}"'


def _straight(path: str) -> str:
    """Level and upright lines by one coordinate (H, V): curves are made of such steps."""
    said: list[str] = []
    at: tuple[str, str] | None = None
    for command in path.strip().splitlines():
        match command.split():
            case ["L", x, y] if at is not None and at[1] == y:
                said.append(f"H{x}")
                at = (x, y)
            case ["L", x, y] if at is not None and at[0] == x:
                said.append(f"V{y}")
                at = (x, y)
            case ["M" | "L" as letter, x, y]:
                said.append(f"{letter}{x} {y}")
                at = (x, y)
            case _:
                said.append(command.strip())
                at = None
    return "\n".join(said)


def _font(match: re.Match[str]) -> str:
    weight = f"font-weight: {match.group(1)}; " if match.group(1) else ""
    return f"{weight}font-size: {match.group(2)}"


def _rename_ids(body: str, figure_id: str) -> str:
    body = re.sub(r'\bid="([^"]+)"', rf'id="{figure_id}-\1"', body)
    body = re.sub(r'href="#([^"]+)"', rf'href="#{figure_id}-\1"', body)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{figure_id}-\1)", body)
