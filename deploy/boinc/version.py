"""The directory of an application's version, as a BOINC project's ``update_versions`` takes it, and templates."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import escape

from deploy.boinc.freeze import API_VERSION
from host_agent.boinc.project_images import DEFAULT_IMAGE as IMAGE
from host_agent.images import read_manifest

PLATFORM = "x86_64-pc-linux-gnu"
#: The job file, which is one of the version's files and so is signed; templates of what goes in and comes out.
JOB_FILE, INPUT_TEMPLATE, OUTPUT_TEMPLATE = "job.xml", "in_template.xml", "out_template.xml"


def physical_name(logical: str, version: str) -> str:
    """Name a file of a version in the project's directory, where files of all versions lie together."""
    stem, dot, ending = logical.replace("/", "_").partition(".")
    return f"{stem}_{version}{dot}{ending}"


def image_files(manifest: Path) -> dict[str, Path]:
    """Give the files of a guest's image by logical name, the manifest itself too. Raises ImageError."""
    image = read_manifest(manifest)
    return {IMAGE: manifest, **{file.name: manifest.parent / file.name for file in image.files}}


def write_version(
    directory: Path, version: str, agent: Path, files: Mapping[str, Path], image: Path | None = None
) -> Path:
    """Write ``directory/VERSION/PLATFORM`` with the agent, the files by logical name, those of the guest's ``image``,
    whose manifest that is, and ``version.xml``; give it.

    What is there is replaced. Raises OSError, and ImageError where the image is none.
    """
    named = {name: (physical_name(name, version), path) for name, path in files.items()}
    if image is not None:
        # Volunteers have an image once, whatever version of the application it is for.
        of_image = read_manifest(image).id[:12]
        named |= {name: (physical_name(name, of_image), path) for name, path in image_files(image).items()}
    target = directory / version / PLATFORM
    target.mkdir(parents=True, exist_ok=True)
    main = physical_name("host_agent", version)
    wanted = {main, *(physical for physical, _ in named.values())}
    for path in target.iterdir():
        if path.name not in wanted:
            path.unlink()
    entries = [_file(main, "", is_main=True)]
    _copy(agent, target / main)
    for logical, (physical, path) in named.items():
        _copy(path, target / physical)
        entries.append(_file(physical, logical))
    (target / "version.xml").write_text(
        f"<version>\n{''.join(entries)}<api_version>{API_VERSION}</api_version>\n<is_wrapper/>\n<dont_throttle/>\n</version>\n"
    )
    return target


def write_templates(directory: Path, program: str, *, in_guest: bool = False) -> None:
    """Write templates of a job into ``directory``: a job file, whose program reads ``in`` and prints ``out``, on the
    volunteer's machine or, ``in_guest``, in a virtual one."""
    directory.mkdir(parents=True, exist_ok=True)
    guest = "    <virtualmachine>guest</virtualmachine>\n    <copy_app_to_VM/>\n" if in_guest else ""
    (directory / JOB_FILE).write_text(
        f"<job_desc>\n  <task>\n{guest}    <application>{escape(program)}</application>\n"
        "    <stdin_filename>in</stdin_filename>\n    <stdout_filename>out</stdout_filename>\n  </task>\n</job_desc>\n"
    )
    (directory / INPUT_TEMPLATE).write_text(_INPUT)
    (directory / OUTPUT_TEMPLATE).write_text(_OUTPUT)


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _file(physical: str, logical: str, *, is_main: bool = False) -> str:
    name = f"  <logical_name>{escape(logical)}</logical_name>\n" if logical else ""
    main = "  <main_program/>\n" if is_main else ""
    return f"<file>\n  <physical_name>{escape(physical)}</physical_name>\n{name}{main}</file>\n"


_INPUT = """<input_template>
<file_info>
    <number>0</number>
</file_info>
<workunit>
    <file_ref>
        <file_number>0</file_number>
        <open_name>in</open_name>
    </file_ref>
    <rsc_disk_bound>1e9</rsc_disk_bound>
    <rsc_memory_bound>1e9</rsc_memory_bound>
</workunit>
</input_template>
"""
_OUTPUT = """<output_template>
<file_info>
    <name><OUTFILE_0/></name>
    <generated_locally/>
    <upload_when_present/>
    <max_nbytes>1e8</max_nbytes>
    <url><UPLOAD_URL/></url>
</file_info>
<result>
    <file_ref>
        <file_name><OUTFILE_0/></file_name>
        <open_name>out</open_name>
    </file_ref>
</result>
</output_template>
"""
