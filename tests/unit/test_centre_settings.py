"""What a system consists of: kept from the first start, obeyed by later ones, changed only when that is asked for."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from host_agent.hypervisors.contract import VmSpec
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor
from host_agent.registry import VmRecord, VmRegistry
from volcloud.centre.existing_vms import refuse_unlike
from volcloud.centre.layout import Layout
from volcloud.centre.plan import Plan
from volcloud.centre.settings import Settings, differences, read_changes, read_settings, settle, told
from volcloud.centre.stopping import registered_vms
from volcloud.errors import BadInput

SECRET = "pLanted-7"


def nothing(_: Settings) -> None:
    """Object to nothing."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_the_first_start_keeps_what_it_was_told_and_the_next_one_goes_on_with_it(path: Path) -> None:
    first = settle(path, {"hypervisor": "process", "ledger": "postgresql:///vc", "vms": 3}, {}, nothing)
    before = path.read_bytes()

    again = settle(path, {}, {}, nothing)

    assert again == first == Settings(hypervisor="process", ledger="postgresql:///vc", vms=3)
    assert path.read_bytes() == before
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("option", "kept", "given"),
    [("vms", 2, 3), ("memory_mib", 768, 1024), ("ledger", "", "postgresql:///x"), ("hypervisor", "qemu", "process")],
)
def test_an_option_that_contradicts_the_file_is_refused_with_both_values(
    path: Path, option: str, kept: object, given: object
) -> None:
    settle(path, {}, {}, nothing)

    with pytest.raises(BadInput) as told_off:
        settle(path, {option: given}, {}, nothing)

    assert told_off.value.message.startswith(f"{option} is ")
    assert f"{kept}" in told_off.value.message
    assert f"{given}" in told_off.value.message
    assert f"--set {option}={given}" in told_off.value.next_step


def test_an_option_that_says_what_the_file_says_is_no_contradiction(path: Path) -> None:
    settle(path, {"vms": 4}, {}, nothing)

    assert settle(path, {"vms": 4}, {}, nothing).vms == 4
    assert settle(path, {"vms": 5}, {"vms": 5}, nothing).vms == 5


def test_set_and_an_option_that_contradict_each_other_are_refused_before_anything_is_written(path: Path) -> None:
    with pytest.raises(BadInput, match="vms is 4 in --set, 5 was given"):
        settle(path, {"vms": 5}, {"vms": 4}, nothing)

    assert not path.exists()


def test_set_changes_its_line_and_leaves_what_people_have_written(path: Path) -> None:
    path.write_text("# mine\nvms = 1   # one is enough\n# memory\nmemory_mib = 900\n\n[guest]\nbeat_s = 3.0\n")

    after = settle(path, {}, {"vms": 2, "cpus": 4}, nothing)

    assert (after.vms, after.cpus, after.memory_mib, after.guest) == (2, 4, 900, {"beat_s": 3.0})
    assert path.read_text() == (
        "# mine\nvms = 2  # one is enough\n# memory\nmemory_mib = 900\ncpus = 4\n\n[guest]\nbeat_s = 3.0\n"
    )
    assert read_settings(path) == after


def test_what_set_cannot_change_line_by_line_is_left_as_it_is_and_said(path: Path) -> None:
    text = "[guest]\nbeat_s = 3.0\n"
    path.write_text(text)

    with pytest.raises(BadInput, match="a way that --set cannot change"):
        settle(path, {}, {"guest": {"beat_s": 1.0}}, nothing)

    assert path.read_text() == text


def test_a_change_that_is_objected_to_is_not_kept(path: Path) -> None:
    settle(path, {}, {}, nothing)
    before = path.read_text()

    def objects(_: Settings) -> None:
        raise BadInput("no")

    with pytest.raises(BadInput, match="no"):
        settle(path, {}, {"vms": 3}, objects)

    assert path.read_text() == before


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (("vsm=3",), "did you mean vms?"),
        (("vms",), "must be KEY=VALUE"),
        (("data=/x",), "must be KEY=VALUE"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused_with_advice(pairs: tuple[str, ...], said: str) -> None:
    with pytest.raises(BadInput, match=said.replace("?", r"\?")):
        read_changes(pairs)


def test_values_of_set_are_read_as_people_write_them() -> None:
    assert read_changes(("vms=3", "hypervisor=process", 'ledger="a=b"', "ledger=", "guest={beat_s = 1.5}")) == {
        "vms": 3,
        "hypervisor": "process",
        "ledger": "",
        "guest": {"beat_s": 1.5},
    }


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ('sources={lyon = {kind = "spool"}, lyon = {}}', r"'lyon'.* \(at line 1, column 4\d\), counted from sources="),
        ("sources={lyon = {kind = spool}}", r"^--set sources={lyon = {kind = spool}}: not TOML: .*line 1, column 25\)"),
        ("sources=[", "not TOML"),
    ],
)
def test_a_table_of_set_that_is_no_toml_is_refused_with_the_place(pair: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        read_changes((pair,))


def test_a_secret_in_a_table_that_is_no_toml_is_masked() -> None:
    with pytest.raises(BadInput) as told_off:
        read_changes((f'sources={{a = {{token = "{SECRET}" x}}}}',))

    assert SECRET not in told_off.value.message


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ({"oslo": {"kind": "spool"}, "lyon": "spool"}, "^sources.lyon = 'spool': must be a table of names and values"),
        ({"oslo": {"kind": "spool"}, "Lyon": {}}, "^sources: 'Lyon' must be "),
    ],
)
def test_a_source_that_cannot_be_is_named(path: Path, sources: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        settle(path, {}, {"sources": sources}, nothing)


@pytest.mark.parametrize(("key", "value"), [("vms", 65), ("memory_mib", 1), ("hypervisor", "xen"), ("lease_s", 0)])
def test_a_value_out_of_its_range_is_named_and_not_kept(path: Path, key: str, value: object) -> None:
    with pytest.raises(BadInput, match=f"^{key} = "):
        settle(path, {}, {key: value}, nothing)

    assert not path.exists()


def test_a_wrong_line_of_the_file_is_named_with_file_key_and_value(path: Path) -> None:
    path.write_text("vsm = 3\n")
    with pytest.raises(BadInput, match=r"settings.toml: unknown key 'vsm': did you mean 'vms'\?"):
        settle(path, {}, {}, nothing)


def test_what_differs_is_told_without_secrets() -> None:
    before, after = Settings(vms=1), Settings(vms=2, ledger=f"postgresql://u:{SECRET}@db/x")

    lines = [*differences(before, after), told(after)]

    assert lines[0] == "vms: 1 until now, 2 from here on"
    assert 'ledger: "" until now, "postgresql://u:***@db/x" from here on' in lines
    assert SECRET not in "".join(lines)


def test_a_secret_in_a_contradiction_is_masked(path: Path) -> None:
    settle(path, {"ledger": f"postgresql://u:{SECRET}1@db/x"}, {}, nothing)

    with pytest.raises(BadInput) as told_off:
        settle(path, {"ledger": f"postgresql://u:{SECRET}2@db/x"}, {}, nothing)

    assert SECRET not in told_off.value.message + told_off.value.next_step


class TestVmsThatExist:
    """A VM keeps what it was made with, so what is asked for must agree with it, or it is said."""

    @pytest.fixture
    def plan(self, tmp_path: Path) -> Plan:
        plan = Plan(data=str(tmp_path), hypervisor="process")
        registry = VmRegistry(plan.layout.vms)
        for number in (1, 2):
            name = f"worker-{number}"
            registry.put(VmRecord(vm=f"vm-{number}", name=name, cpus=1, memory_mib=768, disk_mib=4096, autostart=True))
            marker = plan.layout.host / "hypervisor" / f"vm-{number}" / "vm.json"
            marker.parent.mkdir(parents=True)
            marker.write_text('{"driver": "process", "created_ns": 1, "spec": {}}')
        return plan

    def test_the_same_again_is_right(self, plan: Plan) -> None:
        refuse_unlike(plan)

    def test_more_of_them_is_right(self, plan: Plan) -> None:
        refuse_unlike(msgspec.structs.replace(plan, vms=3))

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"memory_mib": 1024}, "memory_mib: worker-1 and worker-2 were made with 768, 1024 is asked for"),
            ({"cpus": 2}, "cpus: worker-1 and worker-2 were made with 1, 2 is asked for"),
            ({"vms": 1}, "vms: worker-2 exists beyond the 1 asked for"),
            ({"hypervisor": "qemu"}, "hypervisor: worker-1 and worker-2 were made with process, qemu is asked for"),
        ],
    )
    def test_what_they_are_not_is_refused_with_both_values(
        self, plan: Plan, changed: dict[str, object], said: str
    ) -> None:
        with pytest.raises(BadInput, match=said) as told_off:
            refuse_unlike(msgspec.structs.replace(plan, **changed))

        assert "--set " in told_off.value.next_step


def spec_of(vm: str) -> VmSpec:
    return VmSpec(id=vm, name=vm, cpus=1, memory_mib=64, disk_mib=64, image=None, broker="")


def test_the_vms_of_every_driver_are_known_by_their_markers_and_no_payloads_file_is_taken_for_one(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path)
    processes, qemu = ProcessHypervisor(layout.host / "hypervisor"), QemuHypervisor(layout.host / "hypervisor")
    for vm, making in (("vm-p", processes._files.making), ("vm-q", qemu._files.making)):
        with making(spec_of(vm)):
            pass
    job = layout.host / "hypervisor" / "vm-p" / "state" / "jobs" / "vm-other"
    job.mkdir(parents=True)
    (job / "vm.json").write_text("{}")

    assert {vm.name for vm in registered_vms(layout)} == {"vm-p", "vm-q"}
