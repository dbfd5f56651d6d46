"""The operators' dashboard, from which ``dashboard.json`` is made: run ``python -m deploy.grafana.dashboard``.

Every query was run against a real Prometheus; how Grafana draws the panels was not seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from deploy.grafana.panels import label_variable, render_dashboard
from deploy.grafana.rows import ROWS

#: What Grafana imports.
PATH = Path(__file__).with_name("dashboard.json")


def dashboard() -> dict[str, Any]:
    """Build the dashboard."""
    adapters = label_variable("adapter", "Adapters", "label_values(vc_build_info, adapter)")
    return render_dashboard("volunteer-cloud", "Volunteer Cloud", ROWS, [adapters])


def render() -> bytes:
    """Render the file as it is kept."""
    return msgspec.json.format(msgspec.json.encode(dashboard()), indent=1) + b"\n"


def main() -> None:
    """Write the file."""
    PATH.write_bytes(render())


if __name__ == "__main__":
    main()
