"""Drivers by entry point, each with its own settings: what is wrong in them is named with what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.daemon.config import read_config
from broker.errors import ConfigError
from host_agent.config import HostConfig
from host_agent.errors import HypervisorError
from host_agent.hypervisors.drivers import installed, make_driver
from host_agent.hypervisors.fake.hypervisor import FakeHypervisor
from host_agent.hypervisors.process.hypervisor import ProcessHypervisor
from host_agent.hypervisors.qemu.hypervisor import QemuHypervisor

WHERE = "host_agent.toml: hypervisor"


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ({"kind": "qemu", "binary": "/opt/qemu", "accelerator": "tcg", "niceness": 0}, QemuHypervisor),
        ({"kind": "process", "command": ["sandbox", "guest_agent"], "niceness": 19}, ProcessHypervisor),
        ({"kind": "fake"}, FakeHypervisor),
    ],
)
def test_a_table_of_settings_makes_the_driver_that_it_names(tmp_path: Path, table: dict[str, Any], kind: type) -> None:
    driver = make_driver(table, tmp_path / "hypervisor", WHERE)

    assert type(driver) is kind
    assert driver.name == table["kind"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"kind": "xen"}, "hypervisor.kind = 'xen': must be a driver that is installed: fake, process, qemu"),
        ({"kind": 7}, "hypervisor.kind = 7: must be a driver that is installed: fake, process, qemu"),
        ({"kind": ["a"]}, "hypervisor.kind = ['a']: must be a driver that is installed: fake, process, qemu"),
        ({}, "hypervisor.kind is missing: must be a driver that is installed: fake, process, qemu"),
        (
            {"kind": "process", "accelerator": "kvm"},
            "hypervisor.accelerator = 'kvm': the driver process has no such setting: it has kind, command, niceness",
        ),
        ({"kind": "qemu", "binry": "q"}, "hypervisor.binry = 'q': the driver qemu has no such setting: did you mean"),
        ({"kind": "qemu", "niceness": 40}, "hypervisor.niceness = 40: must be a whole number from 0 to 19, such as 2"),
        ({"kind": "qemu", "accelerator": "steam"}, "hypervisor.accelerator = 'steam': must be one of 'kvm', 'tcg'"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_its_value_and_what_is_allowed(
    tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        make_driver(table, tmp_path, WHERE)

    assert str(caught.value).startswith(f"host_agent.toml: {said}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            'hypervisor = "qemu"',
            "hypervisor = 'qemu': must be a table that names the driver, as [hypervisor]",
        ),
        ("niceness = 5", "unknown key 'niceness'"),
    ],
)
def test_a_file_with_the_settings_of_old_is_told_what_to_write_instead(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "host_agent.toml"
    path.write_text(f'credential = "/c"\ndirectory = "/d"\n{line}\n')

    with pytest.raises(ConfigError) as caught:
        read_config(path, HostConfig)

    assert said in str(caught.value)


def test_a_host_without_a_word_about_it_has_qemu(tmp_path: Path) -> None:
    config = HostConfig(credential="/c", directory="/d")

    assert isinstance(make_driver(config.hypervisor, tmp_path, WHERE), QemuHypervisor)


def test_a_driver_whose_package_is_broken_is_named_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[volunteer_cloud.hypervisors]\nbroken = nowhere_to_be_found:driver\n")
    monkeypatch.syspath_prepend(tmp_path)

    with pytest.raises(HypervisorError, match="driver broken cannot be imported: ModuleNotFoundError: No module"):
        make_driver({"kind": "broken"}, tmp_path, WHERE)

    assert "broken" in installed()
    assert isinstance(make_driver({"kind": "fake"}, tmp_path, WHERE), FakeHypervisor)
