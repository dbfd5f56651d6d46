"""What the dashboard shows of grids, each from its own source adapter."""

from __future__ import annotations

from deploy.grafana.panels import Query, Row, graph
from deploy.grafana.promql import rate, series

GRIDS = Row(
    "Grids",
    (
        graph(
            "Jobs from grids",
            "ops",
            "submitted: jobs here now. refused: the grid is told why. again: inputs could not be fetched yet.",
            Query(rate("vc_source_jobs_total", "adapter, fate"), "{{adapter}} {{fate}}"),
        ),
        graph(
            "Ends told to grids",
            "ops",
            "done: final status set. failed: tried again. held: given up, `volcloud job why` of such a job says why.",
            Query(rate("vc_source_deliveries_total", "adapter, outcome"), "{{adapter}} {{outcome}}"),
        ),
        graph(
            "Grids in trouble",
            "short",
            "1 while something is wrong with a grid: `volcloud source list` says what, and since when.",
            Query(series("vc_source_trouble"), "{{adapter}}"),
        ),
    ),
)
