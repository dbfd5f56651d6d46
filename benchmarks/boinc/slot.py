"""What the slots of these benchmarks have in common."""

from __future__ import annotations

from pathlib import Path

from deploy.boinc.version import image_files
from host_agent.boinc.fake_client import FakeClient

ROOT = Path(__file__).parents[2]
IMAGE_CACHE = ROOT / ".cache" / "guest-image"


def with_image(client: FakeClient, manifest: Path) -> None:
    """Lay an image into the project's directory, by links: it is never written to."""
    for logical, path in image_files(manifest).items():
        (client.project / path.name).symlink_to(path)
        client.link(logical, path.name)
