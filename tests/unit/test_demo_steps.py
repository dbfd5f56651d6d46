"""The demo's steps: each is named before it begins and has its time afterwards, whatever ended it."""

from __future__ import annotations

from pathlib import Path

import pytest

from volcloud.demo import material, place
from volcloud.demo.place import DemoPlace
from volcloud.demo.steps import DemoSteps
from volcloud.errors import CommandFailed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_step_is_told_and_timed() -> None:
    told: list[str] = []
    clock = Clock()
    steps = DemoSteps(told.append, clock)

    with steps.step("image", "a guest image"):
        clock.now += 3
        steps.say("building")

    assert told == ["== image: a guest image", "   [   3.0 s] building"]
    assert steps.seconds == {"image": 3.0}


def test_a_step_that_fails_has_its_time_as_well() -> None:
    clock = Clock()
    steps = DemoSteps(lambda _: None, clock)

    def fail() -> None:
        with steps.step("up", "the system"):
            clock.now += 2
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()

    assert steps.total("up", "never reached") == 2.0


def test_a_second_demo_is_kept_out_while_the_first_runs(tmp_path: Path) -> None:
    here = DemoPlace(tmp_path / "demo")

    with place.occupied(here), pytest.raises(CommandFailed, match="runs already"), place.occupied(here):
        pass

    with place.occupied(here):
        pass


def test_the_job_is_laid_out_as_its_description_names_it(tmp_path: Path) -> None:
    wheel = tmp_path / material.WHEEL
    wheel.write_bytes(b"not really")

    description = material.lay_out(DemoPlace(tmp_path / "demo"), wheel)

    assert description.name == "job.toml"
    for name in ("generate.py", "merge.py", material.WHEEL):
        assert (description.parent / name).is_file()
        assert name == "merge.py" or name in description.read_text()


def test_clearing_twice_is_as_clearing_once(tmp_path: Path) -> None:
    here = DemoPlace(tmp_path / "demo")
    here.results.mkdir(parents=True)
    here.merged.write_text("{}")

    for _ in range(2):
        place.clear(here, lambda _: None)

    assert list(here.root.iterdir()) == []
