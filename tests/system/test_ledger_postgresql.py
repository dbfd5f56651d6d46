"""The physics array once more, with the ledger on a real PostgreSQL and two job adapters that share it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from schemas.ledger import JobState
from tests.contract.ledger_fixtures import Cluster, cluster
from tests.system.running import running
from volcloud.centre.guest_image import cache_directory
from volcloud.demo import material
from volcloud.demo.place import DemoPlace

__all__ = ["cluster"]

JOBS = 4
#: A query that knows the tables: jobs by state and done attempts by VM, as an operator with psql sees them.
DONE = "SELECT count(*), count(DISTINCT vm) FROM attempts WHERE state = 'done'"


async def test_the_physics_array_comes_out_right_with_its_ledger_on_postgresql(
    cluster: Cluster, tmp_path: Path
) -> None:
    url = cluster.create("template1").replace("postgresql://", "postgresql+psycopg://")
    place = DemoPlace(tmp_path)
    job = material.lay_out(place, await material.provide_wheel(cache_directory() / "wheels"))
    options = ("--hypervisor", "process", "--vms", "2", "--job-adapters", "2", "--ledger", url)

    with running(*options) as system, system.client() as client:
        client.jobs.submit(job)
        rows = client.jobs.wait("z-decays", timeout_s=120)
        for index in range(1, JOBS + 1):
            client.jobs.fetch(f"z-decays.{index}", place.results / str(index))
        assert not (system.directory / "ledger.db").exists()
    said = await material.merge(place)

    assert [row.state for row in rows] == [JobState.DONE] * JOBS
    merged = json.loads(place.merged.read_text())
    assert merged["events"] == 4000
    assert abs(merged["mean"] - 20.5) < 0.5
    assert merged["means"]["1"] == pytest.approx(material.KNOWN_MEAN, abs=1e-9)
    assert "20.76" in said
    engine = create_engine(url)
    with engine.connect() as connection:
        assert tuple(connection.execute(text(DONE)).one()) == (JOBS, 2)
    engine.dispose()
