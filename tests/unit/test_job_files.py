"""Job files as people write them: read, checked and completed before anything is sent."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from schemas.description import JobDescription
from volcloud.errors import BadInput
from volcloud.job_file import prepare


def write(directory: Path, text: str, name: str = "job.toml") -> Path:
    path = directory / name
    path.write_text(text)
    return path


def test_a_toml_file_becomes_a_description(tmp_path: Path) -> None:
    path = write(tmp_path, 'id = "a-1"\nexecutable = "/bin/echo"\narguments = ["{index}"]\narray = 3\n')

    prepared = prepare(path)

    assert prepared.description == JobDescription(id="a-1", executable="/bin/echo", arguments=["{index}"], array=3)
    assert prepared.uploads == {}


def test_a_json_file_says_the_same_as_a_toml_file(tmp_path: Path) -> None:
    toml = write(tmp_path, 'id = "a-1"\nexecutable = "/bin/true"\n')
    as_json = write(tmp_path, json.dumps({"id": "a-1", "executable": "/bin/true"}), "job.json")

    assert prepare(toml) == prepare(as_json)


def test_an_input_with_a_path_is_named_by_digest_and_listed_for_upload(tmp_path: Path) -> None:
    (tmp_path / "card.dat").write_bytes(b"beams")
    path = write(tmp_path, 'id = "a"\nexecutable = "x"\ninputs = [{ name = "in/card", path = "card.dat" }]\n')

    prepared = prepare(path)

    digest = hashlib.sha256(b"beams").hexdigest()
    assert [(i.name, i.sha256, i.size) for i in prepared.description.inputs] == [("in/card", digest, 5)]
    assert prepared.uploads == {digest: tmp_path / "card.dat"}


def test_an_input_without_a_name_has_its_files_name(tmp_path: Path) -> None:
    (tmp_path / "card.dat").write_bytes(b"beams")
    path = write(tmp_path, 'id = "a"\nexecutable = "x"\ninputs = [{ path = "card.dat" }]\n')

    assert [i.name for i in prepare(path).description.inputs] == ["card.dat"]


def test_inline_content_is_text(tmp_path: Path) -> None:
    path = write(tmp_path, 'id = "a"\nexecutable = "x"\ninputs = [{ name = "run.sh", content = "echo ü" }]\n')

    assert prepare(path).description.inputs[0].content == "echo ü".encode()


def test_a_missing_input_is_named_with_its_full_path(tmp_path: Path) -> None:
    path = write(tmp_path, 'id = "a"\nexecutable = "x"\ninputs = [{ path = "data/none.dat" }]\n')

    with pytest.raises(BadInput, match=f"{tmp_path}/data/none.dat does not exist"):
        prepare(path)


def test_a_directory_is_no_input(tmp_path: Path) -> None:
    path = write(tmp_path, f'id = "a"\nexecutable = "x"\ninputs = [{{ name = "d", path = "{tmp_path}" }}]\n')

    with pytest.raises(BadInput, match="is not a regular file"):
        prepare(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('id = "a"\nexecutabel = "x"\n', "unknown key executabel: did you mean 'executable'"),
        ('id = "a"\nexecutable = "x"\ninputs = [{ pth = "y" }]\n', "unknown key inputs.pth: did you mean 'path'"),
        (
            'id = "a"\nexecutable = "x"\nrequirements = { cpu = 2 }\n',
            "unknown key requirements.cpu: did you mean 'cpus'",
        ),
        ('id = "a"\nexecutable = "x"\npriority = "high"\n', "priority = 'high'"),
        ('id = "a"\nexecutable = "x"\narray = 0\n', "array = 0"),
        ('id = "a"\nexecutable = "x"\ninputs = [{ path = 3 }]\n', "inputs.path = 3: must be a text"),
        ('id = "a b"\nexecutable = "x"\n', "id = 'a b'"),
        ('executable = "x"\n', "id is missing"),
        ('id = "a\nexecutable', "not TOML"),
    ],
)
def test_a_mistake_is_named_with_its_field_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(BadInput) as caught:
        prepare(path)

    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.next_step


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"{tmp_path}/none.toml: cannot be read: No such file"):
        prepare(tmp_path / "none.toml")


def test_a_binary_file_is_not_a_job(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe\x00")

    with pytest.raises(BadInput, match="not a text file"):
        prepare(tmp_path / "job.toml")


def test_id_and_array_of_the_caller_replace_the_files(tmp_path: Path) -> None:
    path = write(tmp_path, 'executable = "x"\n')

    description = prepare(path, job_id="b-2", array=7).description

    assert (description.id, description.array) == ("b-2", 7)


def test_a_mapping_is_left_as_it_was() -> None:
    fields = {"id": "a", "executable": "x", "inputs": [{"name": "f", "content": "y"}]}
    before = json.dumps(fields)

    prepare(fields)

    assert json.dumps(fields) == before
