"""What the page on VMs says that each driver does, it does: every verb and every question is carried out, by the
agent's own control, on every driver that runs here; what is not offered is refused as such.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

from docs.generate import NOT_OFFERED, OFFERED
from host_agent.errors import Unsupported
from host_agent.questions import PORTS, VmQuestions
from host_agent.verbs import TRANSITIONS, More
from host_agent.vm import Verb
from schemas.looks import ScreenPart, VmLog, VmScreenshot, VmStats
from tests.contract.conftest import Rig
from tests.unit.test_control import Host

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "vms.md"
QUESTIONS = {"stats": VmStats, "screenshot": VmScreenshot, "log": VmLog}
#: In an order in which each is legal; made and adopted it is before.
LIFE = (
    Verb.START, Verb.TAKE_SNAPSHOT, Verb.RESTORE_SNAPSHOT, Verb.DELETE_SNAPSHOT, Verb.PAUSE, Verb.RESUME,
    Verb.SAVESTATE, Verb.DISCARD, Verb.START, Verb.RESET, Verb.STOP, Verb.START, Verb.POWEROFF,
)  # fmt: skip


def told(driver: str) -> dict[str, str]:
    """What the page says of a driver."""
    _, _, table = PAGE.read_text().partition("| asked |")
    heads, _, *rows = table.split("\n\n")[0].splitlines()
    column = [one.strip(" `") for one in heads.split("|")].index(driver)
    cells = [[one.strip(" `") for one in re.split(r"\|", row.strip("|"))] for row in rows]
    return {row[0]: row[column + 1] for row in cells}


class Caller:
    """Stands in for who asked: keeps the parts of a picture."""

    def __init__(self) -> None:
        self.parts: list[ScreenPart] = []

    async def send(self, part: ScreenPart) -> None:
        self.parts.append(part)


async def outcome(work: Awaitable[object]) -> str:
    try:
        await work
    except Unsupported:
        return NOT_OFFERED
    return OFFERED


async def test_each_driver_does_what_the_page_says_and_refuses_the_rest(rig: Rig, tmp_path: Path) -> None:
    driver = await rig.open()
    seen: dict[str, str] = {Verb.CREATE: await outcome(driver.create(rig.spec("vm-a")))}
    host = await Host(tmp_path, driver).open()
    seen[Verb.ADOPT] = await outcome(host.control.adopt("vm-a", autostart=lambda name: False))
    asked = VmQuestions(driver, host.registry, host.aside, host.statuses).handlers()

    for verb in LIFE:
        # Where there are no saved states the VM runs on: none is to be discarded, and its start has nothing to do.
        seen[verb] = await outcome(host.control.act(verb, "vm-a", More(rig.stop_timeout_s, "before")))
        if verb is Verb.RESET:
            for word, kind in QUESTIONS.items():
                question = kind(vm="vm-a")
                seen[word] = await outcome(cast(Any, asked[kind].run(cast(Any, Caller()), question)))
            await rig.guest_is_up("vm-a")
    seen[Verb.DELETE] = await outcome(host.control.delete("vm-a"))

    assert set(QUESTIONS) == set(PORTS)
    assert set(seen) == {*TRANSITIONS, *PORTS}
    assert seen == told(driver.name)
    assert await driver.list() == []
