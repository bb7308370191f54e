"""The charts of the page: Vega-Lite specifications without data, which the page fills in.

Fields have fixed names, so nothing that a card or a record says becomes part of a specification;
colours come from the page's theme, by the names of styles and of the ranges of categories.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import vl_convert

__all__ = ["chart_library", "chart_specifications"]

_ROWS = alt.NamedData("rows")
_FIT = alt.AutoSizeParams(type="fit-x", contains="padding")


def chart_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, from the installed package: no network."""
    version = alt.SCHEMA_VERSION.rpartition(".")[0]
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)


def chart_specifications() -> dict[str, dict[str, Any]]:
    """By name: ``cost``, ``curve`` and ``domains``; each reads its data set ``rows``."""
    return {"cost": _cost(), "curve": _curve(), "domains": _domains()}


def _plain(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """Without Altair's own theme."""
    return {key: value for key, value in chart.to_dict().items() if key != "config"}


def _cost() -> dict[str, Any]:
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


def _curve() -> dict[str, Any]:
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


def _domains() -> dict[str, Any]:
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
