"""The picture of an attribution graph as inline SVG: positions are columns, hook points rows, the target on top."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from pipelines.explore.words import plain

LEFT, RIGHT, TOP, FOOT = 118, 26, 30, 46
PITCH, ROW, END = 21, 80, 58
"""Distance of nodes in a cell, least height of a row, and that of the first and last."""
LEAST_STACK, MOST_STACK = 4, 9
"""Nodes above each other in a cell, more where a cell has many."""
NARROWEST, LETTER = 15, 6.6
"""Width of a column without nodes, and of a letter."""
LARGEST, SMALLEST = 8.5, 3.2
"""Radii of nodes."""
WIDEST = 7.0
"""Width of the edge with the most flow."""


@dataclass(frozen=True)
class Drawing:
    """The picture with its size in pixels."""

    svg: Markup
    """The picture."""
    width: int
    """Its width in pixels."""
    height: int
    """Its height in pixels."""


def draw(data: Mapping[str, Any]) -> Drawing:
    """The picture of a graph's page data."""
    nodes, edges, tokens = data["nodes"], data["edges"], data["tokens"]
    cells = defaultdict[tuple[int, int], list[int]](list)
    for i, node in enumerate(nodes):
        cells[node["row"], node["position"]].append(i)
    last = len(data["rows"]) - 1
    high = [_stack(row, cells) for row in range(last + 1)]
    heights = [_row_height(row, cells, high[row], row in (0, last)) for row in range(last + 1)]
    bottoms = [TOP + sum(heights[row + 1 :]) + heights[row] for row in range(len(heights))]
    columns = _columns(cells, tokens, high)
    places = _positions(cells, len(nodes), columns, bottoms, heights, high)
    width, height = (
        round(columns[-1][0] + columns[-1][1] + RIGHT + _half_target(nodes) / 2),
        round(TOP + sum(heights) + FOOT),
    )
    parts = [_grid(data["rows"], bottoms, heights, width), _tokens(tokens, columns, cells, TOP + sum(heights))]
    parts += [_edges(edges, places), _nodes(nodes, places, width - 4)]
    head = f'<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
    about = f"{len(nodes)} nodes and {len(edges)} edges; the table below has the largest"
    return Drawing(Markup(f'{head}aria-label="{about}">{"".join(parts)}</svg>'), width, height)


_Cells = Mapping[tuple[int, int], Sequence[int]]
"""The nodes in each row at each position."""


def _stack(row: int, cells: _Cells) -> int:
    """The most nodes above each other in the cells of a row, about as high as wide where a cell has many."""
    most = max((len(members) for (r, _), members in cells.items() if r == row), default=0)
    return min(MOST_STACK, max(LEAST_STACK, math.ceil(math.sqrt(1.6 * most))))


def _row_height(row: int, cells: _Cells, high: int, is_end: bool) -> float:
    most = max((min(high, len(members)) for (r, _), members in cells.items() if r == row), default=0)
    return END if is_end else max(ROW, 46 + PITCH * most)


def _columns(cells: _Cells, tokens: Sequence[str], high: Sequence[int]) -> list[tuple[float, float]]:
    """The left end and the width of every column."""
    x, columns = float(LEFT), list[tuple[float, float]]()
    for t, token in enumerate(tokens):
        most = max(-(-len(cells.get((row, t), ())) // stack) for row, stack in enumerate(high))
        text = LETTER * min(12, len(token.strip())) + 8
        width = max(text, PITCH * most + 8) if most else max(NARROWEST, text)
        columns.append((x, width))
        x += width
    return columns


def _positions(
    cells: _Cells,
    n_nodes: int,
    columns: Sequence[tuple[float, float]],
    bottoms: Sequence[float],
    heights: Sequence[float],
    high: Sequence[int],
) -> list[tuple[float, float]]:
    """The centre of every node: a cell's nodes in columns of a few, in the middle of the cell."""
    places = [(0.0, 0.0)] * n_nodes
    for (row, t), members in cells.items():
        left, width = columns[t]
        stacks = -(-len(members) // high[row])
        each = -(-len(members) // stacks)
        for k, i in enumerate(members):
            stack, level = divmod(k, each)
            in_stack = min(each, len(members) - stack * each)
            x = left + width / 2 + (stack - (stacks - 1) / 2) * PITCH
            y = bottoms[row] - heights[row] / 2 + ((in_stack - 1) / 2 - level) * PITCH
            places[i] = (x, y)
    return places


def _grid(rows: Sequence[str], bottoms: Sequence[float], heights: Sequence[float], width: int) -> str:
    out = list[str]()
    for name, bottom, height in zip(rows, bottoms, heights, strict=True):
        out.append(f'<path class="line" d="M{LEFT - 8} {bottom:.1f}H{width - 10}"/>')
        words = name.split(", ")
        for k, word in enumerate(words):
            y = bottom - height / 2 + 4 + 13 * (k - (len(words) - 1) / 2)
            out.append(f'<text class="row" x="{LEFT - 18}" y="{y:.1f}" text-anchor="end">{escape(word)}</text>')
    return "".join(out)


def _tokens(
    tokens: Sequence[str], columns: Sequence[tuple[float, float]], cells: Mapping[tuple[int, int], Any], y: float
) -> str:
    used = {t for _, t in cells}
    out = list[str]()
    for t, (token, (left, width)) in enumerate(zip(tokens, columns, strict=True)):
        text = token.strip() or token
        text = text if len(text) <= 12 else text[:11] + "…"
        kind = "token" if t in used else "token idle"
        x = left + width / 2
        out.append(f'<text class="{kind}" x="{x:.1f}" y="{y + 18:.1f}" text-anchor="middle">{escape(text)}</text>')
        out.append(f'<text class="place" x="{x:.1f}" y="{y + 33:.1f}" text-anchor="middle">{t}</text>')
    return "".join(out)


def _edges(edges: Sequence[Sequence[Any]], places: Sequence[tuple[float, float]]) -> str:
    largest = max((abs(flow or 0) for *_, flow in edges), default=1) or 1
    out = list[str]()
    for k in range(len(edges) - 1, -1, -1):  # the widest on top
        source, target, weight, flow = edges[k]
        (x, y), (u, v) = places[source], places[target]
        size = abs(flow or 0) / largest
        bend = (y - v) * 0.55
        path = f"M{x:.1f} {y:.1f}C{x:.1f} {y - bend:.1f} {u:.1f} {v + bend:.1f} {u:.1f} {v:.1f}"
        sign = "up" if (weight or 0) >= 0 else "down"
        style = f"stroke-width:{max(0.4, WIDEST * size**0.75):.2f};--o:{0.09 + 0.7 * size**0.6:.2f}"
        out.append(f'<path class="edge {sign}" data-e="{k}" d="{path}" style="{style}"/>')
    return f'<g class="edges">{"".join(out)}</g>'


def _half_target(nodes: Sequence[Mapping[str, Any]]) -> float:
    """Half the width of the target's box."""
    return max(LETTER * len(str(node["name"])) / 2 + 14 for node in nodes if node["kind"] == "target")


def _nodes(nodes: Sequence[Mapping[str, Any]], places: Sequence[tuple[float, float]], right: float) -> str:
    largest = max((abs(n["score"] or 0) for n in nodes if n["kind"] != "target"), default=1) or 1
    out = list[str]()
    for i, (node, (x, y)) in enumerate(zip(nodes, places, strict=True)):
        r = SMALLEST + (LARGEST - SMALLEST) * (min(1.0, abs(node["score"] or 0) / largest)) ** 0.5
        title = f"<title>{escape(node['name'])}: {plain(node['score'] or 0.0)}</title>"
        if node["kind"] == "target":
            text = str(node["name"])
            wide, x = _half_target(nodes), min(x, right - _half_target(nodes))
            shape = f'<rect x="{x - wide:.1f}" y="{y - 14:.1f}" width="{2 * wide:.1f}" height="28" rx="14"/>'
            shape += f'<text x="{x:.1f}" y="{y + 4.5:.1f}" text-anchor="middle">{escape(text)}</text>'
        elif node["kind"] == "input":
            shape = f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}" rx="2.5"/>'
        elif node["kind"] == "error":
            corners = (f"{x + (r + 1) * a:.1f} {y + (r + 1) * b:.1f}" for a, b in ((0, -1), (1, 0), (0, 1), (-1, 0)))
            shape = f'<path d="M{"L".join(corners)}Z"/>'
        else:
            shape = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
        out.append(f'<g class="node {node["kind"]}" data-n="{i}" tabindex="0">{title}{shape}</g>')
    return f'<g class="nodes">{"".join(out)}</g>'
