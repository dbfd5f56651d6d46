"""The page for administrators: its program is run as it stands there, on a directory and on an XRootD server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from tests.entry_points import write_entry_points
from tests.grid_stores.xrootd_peer import xrootd_peer
from tests.source import ROOT

PAGE = (ROOT / "docs" / "howto" / "grid-storage.md").read_text()


def shown(name: str) -> str:
    """Give a file that the page shows."""
    found = re.search(rf"<!-- file: {re.escape(name)} -->\n```\w+\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert found, name
    return found[1]


def run(directory: Path, settings: str) -> str:
    """Run the program of the page on settings."""
    (directory / "try_grid_store.py").write_text(shown("try_grid_store.py"))
    (directory / "grid.toml").write_text(settings)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{write_entry_points(directory / 'packages')}"}
    command = [sys.executable, "try_grid_store.py", "grid.toml"]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_program_of_the_page_tries_a_directory(tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    settings = shown("grid.toml").replace('"/tmp"', f'"{tmp_path}/grid"')

    said = run(tmp_path, settings)

    place = re.escape((tmp_path / "grid").as_uri())
    size = len(settings.encode())
    assert re.fullmatch(
        rf"{place}/site-a/trial\.1/1/[0-9a-f]{{24}}\.first_output\.txt has {size} bytes, adler32 [0-9a-f]{{8}}\n", said
    )


def test_the_program_of_the_page_tries_a_server(tmp_path: Path) -> None:
    with xrootd_peer() as peer:
        said = run(tmp_path, f'[grid_store]\nkind = "xrootd"\nurl = "{peer.url}"\n')

        assert said.startswith(f"{peer.url}/site-a/trial.1/1/")
        assert peer.files() == []


def test_the_settings_of_the_page_are_settings() -> None:
    blocks = [tomllib.loads(text) for text in re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)]

    assert {kind for block in blocks for kind in kinds(block)} == {"xrootd", "local", "rucio", "dirac"}


def kinds(table: dict[str, Any]) -> list[str]:
    """Give the kinds of a table and of all in it; one that holds none but a source's name is of none."""
    inner = [one for one in table.values() if isinstance(one, dict)]
    return [*([table["kind"]] if "kind" in table else []), *(kind for one in inner for kind in kinds(one))]
