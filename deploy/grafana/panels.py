"""What a dashboard is made of, and how Grafana 9 or newer wants it written. Pure; knows no metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

#: Columns of Grafana's grid.
COLUMNS = 24
#: The data source that a person chooses at the top of the dashboard.
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
_SCHEMA_VERSION = 37


class Query(Struct, frozen=True):
    """A query, and the name of its series: a word, or a label in double braces."""

    expr: str
    legend: str


class Panel(Struct, frozen=True, kw_only=True):
    """One panel. ``unit`` is Grafana's name of it; ``description`` says what is normal and what to do if not."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    type: str = "timeseries"
    width: int = 8
    height: int = 8
    #: Value from which a number is shown in red; None for a number that is never bad.
    bad_from: float | None = None


class Row(Struct, frozen=True):
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


def stat(title: str, unit: str, description: str, expr: str, *, bad_from: float | None = None, width: int = 3) -> Panel:
    """One large number."""
    queries = (Query(expr, title),)
    return Panel(
        title=title,
        description=description,
        unit=unit,
        queries=queries,
        type="stat",
        width=width,
        height=4,
        bad_from=bad_from,
    )


def graph(title: str, unit: str, description: str, *queries: Query, width: int = 8) -> Panel:
    """Lines over time."""
    return Panel(title=title, description=description, unit=unit, queries=queries, width=width)


def render_dashboard(uid: str, title: str, rows: Sequence[Row], variables: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Render a dashboard as Grafana's JSON model."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["volunteer-cloud"],
        "schemaVersion": _SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_datasource_variable(), *variables]},
        "annotations": {"list": []},
        "panels": list(_placed(rows)),
    }


def label_variable(name: str, title: str, query: str) -> dict[str, Any]:
    """Render a variable with the values of a label: one, several or all of them."""
    return {
        "type": "query",
        "name": name,
        "label": title,
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _datasource_variable() -> dict[str, Any]:
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "refresh": 1}


def _placed(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Number the panels, and put them from left to right, row under row."""
    number, y = 1, 0
    for row in rows:
        yield _heading(row.title, number, y)
        number, y = number + 1, y + 1
        x = 0
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + panel.height
            yield _panel(panel, number, x, y)
            number, x = number + 1, x + panel.width
        y += row.panels[-1].height


def _heading(title: str, number: int, y: int) -> dict[str, Any]:
    place = {"h": 1, "w": COLUMNS, "x": 0, "y": y}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(panel: Panel, number: int, x: int, y: int) -> dict[str, Any]:
    return {
        "id": number,
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"h": panel.height, "w": panel.width, "x": x, "y": y},
        "targets": [_target(query, letter) for query, letter in zip(panel.queries, "ABCDEFGH", strict=False)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _OPTIONS[panel.type],
    }


def _target(query: Query, letter: str) -> dict[str, Any]:
    return {"refId": letter, "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}


def _defaults(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    drawn = {"custom": {"lineWidth": 1, "fillOpacity": 10, "showPoints": "never"}} if panel.type == "timeseries" else {}
    return {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}, **drawn}


_OPTIONS: dict[str, dict[str, Any]] = {
    "stat": {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "graphMode": "area"},
    "timeseries": {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
}
