"""The entry points that ``setup.cfg`` names, as an installed package has them, whatever version is installed here."""

from __future__ import annotations

import configparser
from pathlib import Path

from tests.source import ROOT


def write_entry_points(directory: Path) -> Path:
    """Make a directory for the path in which they are found; those that are installed too count once."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    metadata = directory / "volunteer_cloud_parts-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: volunteer-cloud-parts\nVersion: 1.0\n")
    groups = config["options.entry_points"].items()
    text = "".join(f"[{group}]{points}\n" for group, points in groups if group.startswith("volunteer_cloud."))
    (metadata / "entry_points.txt").write_text(text)
    return directory
