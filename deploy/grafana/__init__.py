"""Dashboards for Grafana: made by ``dashboard``, kept as the JSON that Grafana imports."""
