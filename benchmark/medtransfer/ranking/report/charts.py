"""The charts: Vega-Lite specifications without data, which the page fills in, or `draw`.

Fields have fixed names, so nothing that a card or a record says becomes part of a specification;
colours come from a theme, by the names of styles and of the ranges of categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import altair as alt
import vl_convert

Json = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]
Padding = dict[str, int]

_ROWS = alt.NamedData("rows")
_FIT = alt.AutoSizeParams(type="fit-x", contains="padding")
_VERSION = alt.SCHEMA_VERSION.rpartition(".")[0]

_WIDTH = 860  # of a picture: about that of a page on GitHub
# The page's light theme, with a painted background: legible on a dark page too.
_INK, _MUTED, _LINE, _FAINT = "#16191d", "#59616b", "#d8dce1", "#8b95a1"
_ACCENT, _PAPER = "#0b57a4", "#ffffff"
_COLOURS = {
    "cost": [_ACCENT, _FAINT],
    "curves": [_ACCENT, "#c4480f", "#1a7f4b", "#8b3fae", "#a8123e", "#0e8a94", "#7a5c00", _MUTED],
}
_COLOURS["trajectories"] = _COLOURS["curves"]
# Text width depends on the fonts of a machine, so it must not decide what is cut, omitted or moved.
_UNMEASURED = {
    "limit": 0,
    "labelLimit": 0,
    "labelOverlap": False,
    "labelFlush": False,
}
_THEME = {
    "background": _PAPER,
    "font": "Helvetica, Arial, sans-serif",
    "aria": False,
    "view": {"stroke": None},
    "title": {
        "anchor": "start",
        "frame": "group",
        "limit": 0,
        "color": _INK,
        "fontSize": 15,
        "subtitleColor": _MUTED,
        "subtitleFontSize": 12,
        "subtitlePadding": 5,
    },
    "axis": {
        **_UNMEASURED,
        "labelColor": _MUTED,
        "titleColor": _MUTED,
        "titleFontWeight": "normal",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "gridColor": _LINE,
        "gridOpacity": 0.6,
        "domainColor": _MUTED,
        "tickColor": _MUTED,
    },
    "text": {"color": _INK, "fontSize": 11},
    "style": {"front": {"stroke": _ACCENT, "strokeWidth": 1.2, "opacity": 0.7}},
}


@cache
def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package: no network."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", _VERSION)


def chart_specifications() -> dict[str, Json]:
    """By name: ``cost``, ``curve`` and ``domains``; each reads its data set ``rows``."""
    return {"cost": _cost(), "curve": _curve(), "domains": _domains()}


def _plain(chart: alt.TopLevelMixin) -> Json:
    """Disable Altair's default theme."""
    return {key: value for key, value in chart.to_dict().items() if key != "config"}


def _cost() -> Json:
    """Score against cost; rows: encoder, score, cost, best, and the labels right and left."""
    base = alt.Chart(_ROWS, width="container", height=300).encode(
        x=alt.X("cost:Q", scale=alt.Scale(type="log", nice=False, padding=14))
        .axis(format="~s", labelOverlap=True, labelFlush=False, tickCount=8)
        .title("FLOPs"),
        y=alt.Y("score:Q", scale=alt.Scale(zero=False, padding=12), title="In-domain score"),
    )
    colour = alt.Color("best:N", scale=alt.Scale(domain=["yes", "no"]), legend=None)
    tooltip = [
        alt.Tooltip("encoder:N", title="Encoder"),
        alt.Tooltip("score:Q", title="Score", format=".3f"),
        alt.Tooltip("cost:Q", title="FLOPs", format=".3~s"),
        alt.Tooltip("best:N", title="On the front"),
    ]
    front = base.transform_filter(alt.FieldEqualPredicate(field="best", equal="yes"))
    layers = alt.layer(
        front.mark_line(interpolate="step-after", style="front"),
        base.mark_circle(size=64, opacity=1).encode(color=colour, tooltip=tooltip),
        # A label stands on the side of its point where there is more room.
        base.mark_text(align="left", dx=6, dy=-9, limit=140).encode(text="right:N"),
        base.mark_text(align="right", dx=-6, dy=-9, limit=140).encode(text="left:N"),
        autosize=_FIT,
    )
    return _plain(layers)


def _curve() -> Json:
    """Score over budget; rows: encoder, budget (in the order of the rows) and score."""
    chart = (
        alt.Chart(_ROWS, width="container", height=220, autosize=_FIT)
        .mark_line(point=alt.OverlayMarkDef(size=36, filled=True, opacity=1), strokeWidth=1.6)
        .encode(
            x=alt.X("budget:O", sort=None, title=None).axis(labelAngle=0).scale(type="point"),
            y=alt.Y("score:Q", title=None, scale=alt.Scale(zero=False)),
            color=alt.Color("encoder:N", sort=None, legend=None),
            tooltip=[
                alt.Tooltip("encoder:N", title="Encoder"),
                alt.Tooltip("budget:O", title="Budget"),
                alt.Tooltip("score:Q", title="Score", format=".3f"),
            ],
        )
    )
    return _plain(chart)


def _domains() -> Json:
    """Score by domain; rows: source, target, score, encoders, intra, and the colours ink, outline.

    The page sets its height, from the number of sources.
    """
    base = alt.Chart(_ROWS, width="container").encode(
        x=alt.X("target:N", sort=None, title="Domain of the task").axis(labelAngle=-35),
        y=alt.Y("source:N", sort=None, title=None).axis(labelLimit=150),
    )
    tooltip = [
        alt.Tooltip("source:N", title="Pre-trained on"),
        alt.Tooltip("target:N", title="Task's domain"),
        alt.Tooltip("score:Q", title="Mean score", format=".3f"),
        alt.Tooltip("encoders:Q", title="Encoders"),
    ]
    intra = base.transform_filter(alt.FieldEqualPredicate(field="intra", equal="yes"))
    layers = alt.layer(
        base.mark_rect().encode(
            color=alt.Color("score:Q", legend=None, scale=alt.Scale(nice=False)), tooltip=tooltip
        ),
        intra.mark_rect(filled=False, strokeWidth=2).encode(
            color=alt.Color("outline:N", scale=None)
        ),
        base.mark_text().encode(
            text=alt.Text("score:Q", format=".2f"),
            color=alt.Color("ink:N", scale=None),
            tooltip=tooltip,
        ),
        autosize=_FIT,
    )
    return _plain(layers.resolve_scale(color="independent"))


def draw(chart: str, rows: Rows, *, title: tuple[str, str]) -> str:
    """Draw a figure of the README as SVG, with the same bytes whatever fonts are installed.

    Args:
        chart: ``scores``, ``cost``, ``curves``, ``domains`` or ``trajectories``.
        rows: What the chart reads.
        title: Two lines.
    """
    charts = {"scores": _scores, "cost": _priced, "curves": _panels, "domains": _heat}
    charts["trajectories"] = _trajectories
    specification, padding = charts[chart](rows)
    whole = {
        "datasets": {"rows": list(rows)},
        **_unmeasured(specification),
        "title": {"text": title[0], "subtitle": title[1], "dx": 20 - padding["left"], "offset": 18},
        "autosize": "none",
        "padding": padding,
        # At a given distance: else the titles of axes stand off as far as the labels are long.
        "config": {
            **_THEME,
            "range": {"category": _COLOURS.get(chart, []), "heatmap": ["#eef3f9", _ACCENT]},
            "axisX": {"titleY": padding["bottom"] - 24, "grid": chart == "scores"},
            "axisY": {"titleX": 24 - padding["left"]},
        },
    }
    return vl_convert.vegalite_to_svg(whole, _VERSION) + "\n"


def _unmeasured(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _UNMEASURED.get(key, _unmeasured(part)) for key, part in value.items()}
    return [_unmeasured(part) for part in value] if isinstance(value, list) else value


def _scores(rows: Rows) -> tuple[Json, Padding]:
    """A forest plot; rows: encoder, score, low, high and the note at the right."""
    longest = max(len(row["encoder"]) for row in rows)
    left, right = min(360, max(240, 30 + 6 * longest)), 160
    width = _WIDTH - left - right
    base = alt.Chart(_ROWS, width=width, height=alt.Step(22)).encode(
        y=alt.Y("encoder:N", sort=None, title=None).axis(
            domain=False, ticks=False, labelPadding=10, labelColor=_INK
        )
    )
    values = [row[name] for row in rows for name in ("score", "low", "high")]
    scale = alt.Scale(domain=_range(values), nice=True, zero=False)
    score = alt.X("score:Q", scale=scale, title="In-domain score").axis(tickCount=6)
    layers = alt.layer(
        base.mark_rule(color=_ACCENT, strokeWidth=1.6).encode(x="low:Q", x2="high:Q"),
        base.mark_circle(color=_ACCENT, size=56, opacity=1).encode(x=score),
        base.mark_text(align="left", dx=16).encode(x=alt.value(width), text="note:N"),
    )
    return _plain(layers), {"left": left, "top": 72, "right": right, "bottom": 56}


def _priced(rows: Rows) -> tuple[Json, Padding]:
    left, right = 76, 30
    chart = {**_cost(), "width": _WIDTH - left - right, "height": 340}
    return chart, {"left": left, "top": 72, "right": right, "bottom": 60}


def _panels(rows: Rows) -> tuple[Json, Padding]:
    """Panels of curves and a legend; rows: panel, encoder, budget, score."""
    left, names, gap, height = 56, 200, 42, 260
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    width = (_WIDTH - left - names - gap * len(panels)) // len(panels)
    curve = {name: part for name, part in _curve().items() if name not in ("$schema", "autosize")}
    # One scale for all panels.
    domain = _range([row["score"] for row in rows])
    curve["encoding"]["y"]["scale"] |= {"domain": domain, "nice": True}
    views = [
        {
            **curve,
            "transform": [{"filter": {"field": "panel", "equal": panel}}],
            "title": {"text": panel, "fontSize": 12, "fontWeight": "normal"},
            "width": width,
            "height": height,
        }
        for panel in panels
    ]
    chart = alt.hconcat(_key("encoder", names), spacing=gap, bounds="flush").to_dict()
    chart["hconcat"] = [*views, *chart["hconcat"]]
    chart.pop("config")
    # The size of a row of views is nothing by itself.
    return chart, {"left": left, "top": 92, "right": _WIDTH - left, "bottom": height + 40}


def _heat(rows: Rows) -> tuple[Json, Padding]:
    left, right = 240, 30
    low, high = _range([row["score"] for row in rows])
    inks = [_INK if (row["score"] - low) / (high - low) < 0.68 else _PAPER for row in rows]
    chart = {
        **_domains(),
        "width": _WIDTH - left - right,
        "height": 34 * len({row["source"] for row in rows}),
        "datasets": {
            "rows": [
                {**row, "ink": ink, "outline": _INK} for row, ink in zip(rows, inks, strict=True)
            ]
        },
    }
    slanted = 4 * max(len(row["target"]) for row in rows)
    return chart, {"left": left, "top": 72, "right": right, "bottom": 64 + slanted}


def _trajectories(rows: Rows) -> tuple[Json, Padding]:
    """Panels one below the other; rows: panel, part, series, seen, value and pick (yes, no)."""
    left, names, gap, height = 64, 150, 40, 120
    panels = list(dict.fromkeys(row["panel"] for row in rows))
    parts = sorted({row["part"] for row in rows})
    width = (_WIDTH - left - names - gap * len(parts)) // len(parts)
    lines = []
    for number, panel in enumerate(panels):
        views = []
        for part in parts:
            base = (
                alt.Chart(_ROWS, width=width, height=height)
                .transform_filter(alt.FieldEqualPredicate(field="panel", equal=panel))
                .transform_filter(alt.FieldEqualPredicate(field="part", equal=part))
                .encode(
                    x=alt.X("seen:Q", title=None).axis(format="~s", tickCount=4, grid=False),
                    y=alt.Y("value:Q", title=None, scale=alt.Scale(zero=False)).axis(tickCount=4),
                    color=alt.Color("series:N", sort=None, legend=None),
                )
            )
            ring = base.transform_filter(alt.FieldEqualPredicate(field="pick", equal="yes"))
            layers = alt.layer(
                base.mark_line(strokeWidth=1.6),
                ring.mark_point(size=70, strokeWidth=1.6),
                title=alt.Title(f"{panel}, {part}", fontSize=11, fontWeight="normal"),
            )
            views.append(layers.resolve_scale(color="shared"))
        if number == 0:
            views.append(_key("series", names))
        lines.append(alt.hconcat(*views, spacing=gap, bounds="flush"))
    # The size of a row of views is nothing by itself.
    chart = alt.vconcat(*lines, spacing=height + 58, bounds="flush")
    whole = chart.resolve_scale(color="shared").to_dict()
    whole.pop("config")
    below = (height + 58) * len(panels)
    return whole, {"left": left, "top": 92, "right": _WIDTH - left, "bottom": below}


def _key(field: str, width: int) -> alt.LayerChart | alt.FacetChart:
    """Legend of colours."""
    base = alt.Chart(_ROWS, width=width, height=alt.Step(20)).encode(
        y=alt.Y(f"{field}:N", sort=None, axis=None)
    )
    base = base.transform_aggregate(rows="count()", groupby=[field])  # a row for each
    colour = alt.Color(f"{field}:N", sort=None, legend=None)
    return alt.layer(
        base.mark_circle(size=64, opacity=1).encode(x=alt.value(6), color=colour),
        base.mark_text(align="left").encode(x=alt.value(18), text=f"{field}:N"),
    )


def _range(values: Sequence[float | None]) -> list[float]:
    """The smallest and the largest value; a scale needs some room between them."""
    defined = [value for value in values if value is not None]
    low, high = min(defined), max(defined)
    return [low, high] if high > low else [low - 0.05, high + 0.05]
