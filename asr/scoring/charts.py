"""Charts of the report, as HTML and SVG that take their colours from the page."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from asr.scoring.breakdown import Group
from asr.scoring.calibration import Bin

Point = tuple[float, float]

_WIDTH, _HEIGHT = 560, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 26, 12, 36
_STYLES = ("one", "two")

MOST_WHISKERS = 50
"""The most bars that get an interval: each takes some milliseconds."""
FEWEST_STEPS = 10
"""With fewer of them the training loss is drawn by epochs."""
FEWEST_UTTERANCES = 5
"""Smaller groups have no whiskers, which would be as wide as the chart."""


def bars(groups: Sequence[Group], *, find: str | None = None) -> str:
    """Horizontal bars of word error rates; whiskers are 95 % intervals over the group's utterances.

    Args:
        groups: one bar each.
        find: if given, a click on a name searches for `find` followed by the name.
    """
    intervals = [
        g.score.wer_interval if n < MOST_WHISKERS and g.score.sentences >= FEWEST_UTTERANCES else None
        for n, g in enumerate(groups)
    ]
    ends = [min(i[1], 2 * g.score.wer) for g, i in zip(groups, intervals, strict=True) if i]
    scale = 100 / (max([g.score.wer for g in groups] + ends) or 1)
    rows = []
    for group, bounds in zip(groups, intervals, strict=True):
        s, name = group.score, escape(group.name)
        label = f'<div class="name" title="{name}">{name}</div>'
        if find is not None:
            wanted = escape(find + "_".join(group.name.split()))
            label = f'<button type="button" class="name" data-find="{wanted}" title="{name}">{name}</button>'
        whisker = ""
        if bounds:
            left, right = scale * bounds[0], min(100.0, scale * bounds[1])
            whisker = f'<u style="left:{left:.2f}%;width:{max(right - left, 0):.2f}%"></u>'
        kinds = f"{s.substitutions} substitutions, {s.deletions} deletions, {s.insertions} insertions"
        bar = f'<i style="width:{scale * s.wer:.2f}%"></i>'
        rows.append(
            f'{label}<div class="track" title="{kinds}">{bar}{whisker}</div>'
            f'<div class="value"><b>{s.wer:.1%}</b> of {s.words:,}</div>'
        )
    return f'<div class="bars">{"".join(rows)}</div>'


def calibration(bins: Sequence[Bin]) -> str:
    """Reliability diagram: share of correct words against confidence, over a histogram of the words."""
    width, height, left, bottom = 460, 300, 44, 34
    inner_w, inner_h = width - left - 14, height - bottom - 12

    def x(v: float) -> float:
        return left + v * inner_w

    def y(v: float) -> float:
        return 12 + (1 - v) * inner_h

    most = max(b.words for b in bins)
    parts = [
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Share of right words by confidence">'
    ]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="axis" x1="{left}" x2="{x(1)}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 7}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.0%}</text>')
        parts.append(
            f'<text x="{x(tick):.1f}" y="{height - bottom + 18}" text-anchor="middle">{tick:g}</text>'
        )
    for b in bins:
        share = b.words / most * 0.5
        parts.append(
            f'<rect class="hist" x="{x(b.low) + 1:.1f}" y="{y(share):.1f}" width="{inner_w / 10 - 2:.1f}" '
            f'height="{inner_h * share:.1f}" rx="2"><title>{b.words:,} words</title></rect>'
        )
    parts.append(f'<line class="even" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    line = " ".join(f"{x(b.confidence):.1f},{y(b.accuracy):.1f}" for b in bins)
    parts.append(f'<polyline class="line one" points="{line}"/>')
    for b in bins:
        parts.append(
            f'<circle class="dot-one" cx="{x(b.confidence):.1f}" cy="{y(b.accuracy):.1f}" r="4.5"><title>'
            f"{b.words:,} words said to be {b.confidence:.0%} sure, {b.accuracy:.1%} right</title></circle>"
        )
    parts.append(f'<text x="{x(0.5):.1f}" y="{height - 2}" text-anchor="middle">confidence</text></svg>')
    return "".join(parts)


def curves(title: str, lines: Sequence[tuple[str, Sequence[Point]]], *, log: bool, unit: str) -> str:
    """Up to two lines over the course of training; "" if there is nothing to draw.

    Args:
        title: shown above.
        lines: name and points of each; one with many points is drawn thin and without dots.
        log: whether the vertical axis is logarithmic; points at 0 or below are then left out.
        unit: appended to the numbers of the vertical axis.
    """
    lines = [
        (name, [p for p in points if math.isfinite(p[1]) and (p[1] > 0 or not log)]) for name, points in lines
    ]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return ""
    plot = _Plot([p for _, points in lines for p in points], log=log)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">']
    parts += plot.axes(unit)
    for (name, points), style in zip(lines, _STYLES, strict=False):
        kept = points[:: max(1, len(points) // 800)]
        path = " ".join(f"{plot.x(px):.1f},{plot.y(py):.1f}" for px, py in kept)
        parts.append(
            f'<polyline class="line {style}{" thin" if len(points) > 100 else ""}" points="{path}"/>'
        )
        for px, py in points if len(points) <= 60 else ():
            place = f'cx="{plot.x(px):.1f}" cy="{plot.y(py):.1f}"'
            said = f"{escape(name)} {py:.4g}{unit} at {px:,g}"
            parts.append(f'<circle class="dot-{style}" {place} r="3"><title>{said}</title></circle>')
    names = "".join(
        f'<tspan class="name-{style}" dx="12">{escape(name)}</tspan>'
        for (name, _), style in zip(lines, _STYLES, strict=False)
    )
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 2}" text-anchor="end">{names}</text></svg>')
    return f"<div><h3>{escape(title)}</h3>{''.join(parts)}</div>"


class _Plot:
    """The mapping from data to chart coordinates, and the axes."""

    def __init__(self, points: Sequence[Point], *, log: bool) -> None:
        self._xs = min(p[0] for p in points), max(p[0] for p in points)
        ys = min(p[1] for p in points), max(p[1] for p in points)
        self._ticks = _log_ticks(*ys) if log else _ticks(0.0, ys[1] or 1.0)
        self._ys = min(self._ticks[0], ys[0]), max(self._ticks[-1], ys[1])
        self._log = log

    def x(self, value: float) -> float:
        low, high = self._xs
        return _LEFT + (value - low) / max(high - low, 1e-9) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self._ys
        share = math.log(value / low) / math.log(high / low) if self._log else (value - low) / (high - low)
        return _TOP + (1 - share) * (_HEIGHT - _BOTTOM - _TOP)

    def axes(self, unit: str) -> list[str]:
        parts = []
        for tick in self._ticks:
            y = self.y(tick)
            parts.append(
                f'<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            parts.append(f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}{unit}</text>')
        for tick in _ticks(*self._xs):
            if self._xs[0] <= tick <= self._xs[1]:
                place = f'x="{self.x(tick):.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
                parts.append(f'<text {place} text-anchor="middle">{tick:,.6g}</text>')
        return parts


def training(history: Sequence[dict[str, Any]]) -> str:
    """Loss over updates and error rates over epochs, as far as the history has them.

    Args:
        history: the lines of `asr.training.history`; those of epochs give the training loss only if there are
            few of steps.
    """

    def series(lines: Sequence[dict[str, Any]], key: str, place: str, times: float = 1.0) -> list[Point]:
        known = (line for line in lines if line.get(key) is not None)
        return [(float(line[place]), times * float(line[key])) for line in known]

    steps, epochs = ([line for line in history if line["kind"] == kind] for kind in ("step", "epoch"))
    learnt = steps if len(steps) >= FEWEST_STEPS else epochs or steps  # a short training writes next to none
    losses = [
        ("training", series(learnt, "loss", "updates")),
        ("development", series(epochs, "dev_loss", "updates")),
    ]
    rates = [(name, series(epochs, name.lower(), "epoch", times=100)) for name in ("WER", "CER")]
    return curves("Loss by update", losses, log=True, unit="") + curves(
        "Error rate on the development set by epoch", rates, log=False, unit="%"
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers from at most `low` to at least `high`."""
    span = max(high - low, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(m for m in (1, 2, 5, 10) if span / (m * step) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [n * step for n in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten times 1, 2 and 5 that enclose the range, thinned out if many."""
    every = [
        m * 10.0**n
        for n in range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        for m in (1, 2, 5)
    ]
    first = max(n for n, v in enumerate(every) if v <= low)
    last = min(n for n, v in enumerate(every) if v >= high)
    chosen = every[first : max(last, first + 1) + 1]
    return chosen if len(chosen) <= 7 else [v for v in chosen if f"{v:e}"[0] == "1"]
