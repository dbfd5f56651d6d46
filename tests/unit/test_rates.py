"""What a VM uses a second: told of two answers of one life, and of nothing else."""

from __future__ import annotations

from schemas.looks import VmCounters
from volcloud.rates import rates
from volcloud.rendering.looks import size

BEFORE = VmCounters(life="a", for_s=10.0, cpu_seconds=1.0, block_read_bytes=1000, resident_bytes=5)


def test_two_answers_of_one_life_give_a_rate_of_what_grows() -> None:
    now = VmCounters(life="a", for_s=12.0, cpu_seconds=2.0, block_read_bytes=3000, resident_bytes=9, net_rx_bytes=7)

    assert rates(BEFORE, now) == {"cpu_seconds": 0.5, "block_read_bytes": 1000.0}


def test_another_life_no_life_and_the_same_answer_give_none() -> None:
    assert rates(BEFORE, VmCounters(life="b", for_s=12.0, cpu_seconds=2.0)) is None
    assert rates(VmCounters(), VmCounters()) is None
    assert rates(BEFORE, BEFORE) is None
    assert rates(None, BEFORE) is None


def test_sizes_have_the_unit_that_people_would_choose() -> None:
    told = [size(amount) for amount in (None, 0, 1023, 1024, 150 * 1024, 34_643_968, 1 << 60)]

    assert told == ["-", "0 B", "1023 B", "1.0 KiB", "150 KiB", "33.0 MiB", "1024 PiB"]
