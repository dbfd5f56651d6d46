"""To know a digest is no right: a VM may have what the attempts that it holds name, and nothing else."""

from __future__ import annotations

from adapters.ledger import input_rights
from schemas.description import Input
from tests.contract.ledger_fixtures import Desk, cluster, desk, empty_url, url

__all__ = ["cluster", "desk", "empty_url", "url"]

MINE, OTHERS = "1" * 64, "2" * 64


def may_have(desk: Desk, vm: str, sha256: str) -> bool:
    return desk.ledger.read(lambda tx: input_rights.may_have(tx, vm, sha256))


def submit(desk: Desk, job_id: str, sha256: str, owner: str = "site-a") -> None:
    desk.submit(job_id, owner, stored=[sha256], inputs=[Input(name="data", sha256=sha256, size=5)])


def test_a_vm_may_have_what_its_attempt_names_until_that_ends(desk: Desk) -> None:
    submit(desk, "mine", MINE)
    before = may_have(desk, "vm-1", MINE)

    job = desk.start("vm-1")
    meanwhile = may_have(desk, "vm-1", MINE)
    desk.complete(job)

    assert (before, meanwhile, may_have(desk, "vm-1", MINE)) == (False, True, False)


def test_a_vm_may_not_have_what_anothers_attempt_names(desk: Desk) -> None:
    submit(desk, "mine", MINE)
    desk.start("vm-1")
    submit(desk, "others", OTHERS, owner="site-b")
    desk.start("vm-2")

    found = [may_have(desk, vm, sha256) for vm in ("vm-1", "vm-2", "vm-3") for sha256 in (MINE, OTHERS)]

    assert found == [True, False, False, True, False, False]


def test_a_lease_that_has_run_out_shows_no_right(desk: Desk) -> None:
    submit(desk, "mine", MINE)
    desk.start("vm-1")

    desk.pass_s(1000)
    desk.expire()

    assert not may_have(desk, "vm-1", MINE)
