"""DIRAC's job descriptions, as people write them and as nobody should: what is understood, and what is said."""

from __future__ import annotations

import io
import subprocess
import tarfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.errors import JdlError
from adapters.sources.contract import GridInput
from adapters.sources.dirac.jdl import MOST_BYTES, Jdl, read_jdl
from adapters.sources.dirac.work import UNPACK, JdlWork, fits_platform, read_work

DIGEST = "ab" * 32
SANDBOX = f"SB:SandboxSE|/S3/sandboxes/vo/group/user/sha256:{DIGEST}.tar.bz2"


def work_of(text: str, job: str = "17") -> JdlWork:
    return read_work(read_jdl(text), job)


def flaw_of(text: str) -> JdlError:
    with pytest.raises(JdlError) as caught:
        work_of(text)
    return caught.value


def test_a_description_is_the_same_with_brackets_and_without() -> None:
    body = 'Executable = "/bin/echo";\nArguments = "a b";\nCPUTime = 3600;\n'

    assert work_of(f"[\n{body}]").work == work_of(body).work == work_of(f"  [{body}]\n\n").work


def test_a_full_description_is_understood() -> None:
    asked = work_of(f"""[
        // what the user's tool has written
        Executable = "run.sh";
        Arguments = "--seed %j 'two words' -n 5";
        Environment = {{"A=1", "B=x=y"}};
        InputSandbox = {{"{SANDBOX}"}};
        OutputSandbox = {{"hist.root", "std.out", "std.err", "*.log"}};
        StdOutput = "std.out"; StdError = "std.err";
        CPUTime = 7200; NumberOfProcessors = "2"; MaxRAM = 2500; Priority = 3;
        Tag = {{"GPU", "MultiProcessor", "2Processors"}};
        Site = {{"CLOUD.Volunteer.org", "LCG.CERN.ch"}}; BannedSites = "LCG.Bad.org";
        Platform = "x86_64-el9";
    ]""")

    work = asked.work
    assert (work.executable, work.arguments[:3]) == ("/bin/sh", ["-c", UNPACK, "run.sh"])
    assert work.arguments[3:] == ["--seed", "17", "two words", "-n", "5"]
    assert work.environment == {"A": "1", "B": "x=y"}
    assert work.inputs == [GridInput(name="sandbox.1.tar", where=SANDBOX)]
    assert work.outputs == ["hist.root", "*.log"]
    assert (work.requirements.cpus, work.requirements.memory_mib, work.requirements.features) == (2, 2500, ["GPU"])
    assert (work.priority, work.wall_time_s) == (3, 7200.0)
    assert (asked.stdout, asked.stderr, asked.platforms) == ("std.out", "std.err", ("x86_64-el9",))
    assert asked.is_for("CLOUD.Volunteer.org")
    assert not asked.is_for("LCG.Bad.org")
    assert not asked.is_for("LCG.Other.org")


def test_a_job_that_says_little_gets_what_is_usual() -> None:
    asked = work_of("Executable = ls")

    assert (asked.work.executable, asked.work.arguments, asked.work.inputs) == ("ls", [], [])
    assert (asked.work.wall_time_s, asked.stdout, asked.stderr) == (86400.0, "std.out", "std.err")
    assert asked.is_for("anywhere")


def test_a_sandbox_is_one_text_or_a_list_with_quotes_or_without() -> None:
    forms = (f'"{SANDBOX}"', f'{{"{SANDBOX}"}}', f"{{{SANDBOX}}}", f"{{\n  {SANDBOX}\n}}")

    found = [work_of(f"Executable = x;\nInputSandbox = {form};").work.inputs for form in forms]

    assert found == [[GridInput(name="sandbox.1.tar", where=SANDBOX)]] * len(forms)


def test_lines_need_no_semicolon() -> None:
    asked = work_of('Executable = run.sh\nArguments = -n 5 seed=3\nOutputSandbox = {a.root, b.root}\nStdOutput = "o"')

    assert (asked.work.arguments, asked.work.outputs, asked.stdout) == (
        ["-n", "5", "seed=3"],
        ["a.root", "b.root"],
        "o",
    )


def test_what_dirac_itself_makes_of_a_missing_semicolon_is_understood() -> None:
    asked = work_of('[ Executable = "ls" StdOutput = "o"; CPUTime = 100 StdError = "e" ]')

    assert (asked.work.executable, asked.stdout, asked.stderr, asked.work.wall_time_s) == ("ls", "o", "e", 100.0)


def test_of_a_key_that_stands_twice_the_last_counts_in_capitals_or_not() -> None:
    assert work_of("Executable = a; EXECUTABLE = b; executable = c;").work.executable == "c"


def test_a_key_may_be_set_to_nothing() -> None:
    asked = work_of('Executable = ls;\nArguments = \nStdOutput = "";\nCPUTime = ;\nPriority = 1')

    assert (asked.work.arguments, asked.stdout, asked.work.wall_time_s, asked.work.priority) == (
        [],
        "std.out",
        86400.0,
        1,
    )


def test_two_streams_with_one_name_stay_two() -> None:
    asked = work_of("Executable = ls; StdOutput = log; StdError = log; OutputSandbox = {log};")

    assert (asked.stdout, asked.stderr, asked.work.outputs) == ("log", "log.err", [])


def test_remarks_are_passed_over() -> None:
    text = "# one\n// two\n/* three\n four = 4; */ Executable = ls; // five\nCPUTime = 60 # six\n"

    assert work_of(text).work.wall_time_s == 60.0
    assert work_of("Executable = ls; OutputSandbox = {a#b};").work.outputs == ["a#b"]


def test_one_of_many_jobs_has_its_own_parameter() -> None:
    asked = work_of('Executable = ls; Arguments = "%s %n %j"; Parameter = "seed7"; ParameterNumber = 4;', "99")

    assert asked.work.arguments == ["seed7", "4", "99"]
    assert work_of('Executable = ls; Arguments = "%s"; Parameter = "%n%%j"; ParameterNumber = 4;').work.arguments == [
        "%n%%j"
    ]
    assert "taken apart" in flaw_of('Executable = ls; Arguments = "%s"; Parameters = 10;').reason


def test_numbers_stand_bare_or_in_quotes_and_are_put_into_range() -> None:
    assert work_of('Executable = x; CPUTime = "90"; Priority = "99999"').work.priority == 1000
    assert work_of("Executable = x; CPUTime = 1e30").work.wall_time_s == 31 * 86400
    assert work_of("Executable = x; MaxRAM = 2GB").work.requirements.memory_mib == 2048


def test_an_apostrophe_in_a_name_is_one() -> None:
    asked = work_of("JobName = Peter's job;\nExecutable = ls;\nOutputSandbox = {\"it's.root\"};")

    assert asked.work.outputs == ["it's.root"]
    assert "apostrophe" in flaw_of('Executable = ls; Arguments = "it\'s";').reason


def test_arguments_are_split_as_a_shell_does_and_no_shell_runs_them() -> None:
    asked = work_of(r'Executable = "/bin/sh"; Arguments = "-c \"echo $HOME; ls\" x\\ y";')

    assert asked.work.arguments == ["-c", "echo $HOME; ls", "x y"]
    assert work_of("Executable = 'a b'").work.arguments == ["b"]


def test_requirements_that_the_server_adds_are_read_where_the_job_says_nothing() -> None:
    text = '[ Executable = ls;\n JobRequirements = \n [ CPUTime = 500; Owner = "x"; ];\n Priority = 1 ]'

    assert work_of(text).work.wall_time_s == 500.0


@pytest.mark.parametrize(
    ("text", "line", "field", "word"),
    [
        ("", 1, "", "nothing"),
        ("Arguments = x", 0, "Executable", "missing"),
        ("Executable = x;\nCPUTime = -5;", 2, "CPUTime", "above 0"),
        ("Executable = x;\nCPUTime = soon;", 2, "CPUTime", "number"),
        ("Executable = x;\nCPUTime = nan;", 2, "CPUTime", "number"),
        ("Executable = x;\nNumberOfProcessors = 5000;", 2, "NumberOfProcessors", "256"),
        ("Executable = x;\nOutputSandbox = {a, ../b};", 2, "OutputSandbox", "below"),
        ("Executable = x;\nOutputSandbox = {/etc/passwd};", 2, "OutputSandbox", "below"),
        ("Executable = x;\nStdOutput = ../out;", 2, "StdOutput", "below"),
        ("Executable = x;\nOutputSandbox = {stdout};", 2, "OutputSandbox", "taken"),
        ("Executable = x;\nOutputSandbox = {LFN:/vo/a};", 2, "OutputSandbox", "catalogue"),
        ("Executable = x;\nInputSandbox = {LFN:/vo/a};", 2, "InputSandbox", "catalogue"),
        ("Executable = x;\nInputSandbox = {a.sh};", 2, "InputSandbox", "uploaded"),
        ("Executable = x;\nInputData = {LFN:/vo/a};", 2, "InputData", "catalogue"),
        ("Executable = x;\nOutputData = {a};", 2, "OutputData", "catalogue"),
        ("Executable = LFN:/vo/a", 1, "Executable", "catalogue"),
        ("Executable = x;\nEnvironment = {A};", 2, "Environment", "NAME=value"),
        ("Executable = x;\nMaxRAM = much;", 2, "MaxRAM", "2GB"),
        ('Executable = "x', 1, "Executable", "does not end"),
        ('Executable = "x" y;', 1, "Executable", "follows"),
        ("Executable = x;\nOutputSandbox = {a, b;\nCPUTime = 3;", 2, "OutputSandbox", "not ended"),
        ("Executable = x;\nwhat is this", 2, "", "must be a key"),
        ("[ Executable = x; ] ]", 1, "", "left over"),
    ],
)
def test_a_flaw_is_told_with_line_key_and_reason(text: str, line: int, field: str, word: str) -> None:
    flaw = flaw_of(text)

    assert (flaw.line, flaw.field) == (line, field)
    assert word in flaw.reason


@pytest.mark.parametrize(
    "text",
    [
        "Executable = x; Environment = {" + ", ".join(f'"V{n}={"y" * 2000}"' for n in range(1000)) + "}",
        "Executable = x; OutputSandbox = {" + ",".join(f"f{n}" * 8 for n in range(30_000)) + "}",
        "Executable = x; OutputSandbox = {" + ",".join("n" * 150 + str(n) for n in range(10_000)) + "}",
        "Executable = x; InputSandbox = {" + ",".join(SANDBOX.replace("user", f"u{n}") for n in range(10_000)) + "}",
        "Executable = x; Arguments = " + "y " * 1_000_000,
        "A = [" * 100_000,
        "A = {" + "{" * 100_000,
        "".join(f"K{n} = 1;\n" for n in range(100_000)),
        "x" * (MOST_BYTES + 1),
        'A = "' * 500_000,
        "A = \n" * 400_000,
        "/*" * 1_000_000,
        "A = " + "[ " * 1_000_000,
        f'Executable = x; Foo = "{"%n" * 2000}"; ParameterNumber = "{"%s" * 2000}"; Parameter = "{"x" * 2000}";',
        f'Executable = x; Parameter = "{"x" * 2000}"; ' + "".join(f'F{n} = "{"%s" * 900}"; ' for n in range(900)),
        "Foo = a" + "\n" * 1_000_000 + "1;",
        "Foo = a" + " \n" * 1_000_000 + "1; B = a" + " " * 1_000_000 + "1;",
    ],
    ids=range(17),
)
def test_what_is_too_much_is_refused_and_at_once(text: str) -> None:
    began = time.process_time()

    flaw = flaw_of(text)

    assert time.process_time() - began < 3
    assert len(str(flaw)) < 400
    assert str(flaw).isprintable()


def test_ten_thousand_outputs_are_taken() -> None:
    asked = work_of("Executable = x; OutputSandbox = {" + ",".join(f"f{n}" for n in range(10_000)) + "}")

    assert len(asked.work.outputs) == 10_000


PIECES = st.sampled_from(
    [
        *("[", "]", "{", "}", ";", ",", "=", '"', "\\", "\n", " ", "'", "/*", "*/", "//", "#", "%j", "\0", "\u202e"),
        *("Executable", "Arguments", "CPUTime", "InputSandbox", "OutputSandbox", "Environment", "A=1", "run.sh", "-5"),
        *("Site", "Tag", "NumberOfProcessors", "1e999", "../x", SANDBOX, "LFN:/a", "Executable = x;", "MaxRAM"),
    ]
)


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join), st.lists(PIECES, max_size=40).map(" ".join)))
def test_whatever_is_written_there_is_work_or_a_flaw(text: str) -> None:
    try:
        said = work_of(text).work.executable
    except JdlError as flaw:
        said = str(flaw)
    assert said


def test_of_a_value_that_a_semicolon_has_ended_at_the_grid_it_is_said_what_ends_one() -> None:
    flaw = flaw_of('Executable = "/bin/sh";\nArguments = "-c "echo a";\n')

    assert "Arguments" in str(flaw)
    assert "follows the end of its value" in str(flaw)
    assert "DIRAC ends a value at a ; within quotes: send a script" in str(flaw)


@given(st.dictionaries(st.from_regex(r"[A-Za-z]\w{0,8}", fullmatch=True), st.text(max_size=30), min_size=1))
def test_what_is_written_with_quotes_is_read_as_it_was(values: dict[str, str]) -> None:
    escaped = {key: text.replace("\\", "\\\\").replace('"', '\\"') for key, text in values.items()}

    found: Jdl = read_jdl("".join(f'{key} = "{text}";\n' for key, text in escaped.items()))

    last = {key.lower(): text for key, text in values.items()}
    assert {key: value.members for key, value in found.values.items()} == {key: (text,) for key, text in last.items()}


@pytest.mark.parametrize(
    ("executable", "said"),
    [("run.sh", "ran a b|c"), ("./run.sh", "ran a b|c"), ("dir/two.sh", "two a b|c"), ("echo", "a b c")],
)
def test_what_is_in_a_sandbox_is_run_and_what_is_not_is_the_machines(
    tmp_path: Path, executable: str, said: str
) -> None:
    for n, (name, body) in enumerate((("run.sh", "echo ran $1\\|$2"), ("dir/two.sh", "echo two $1\\|$2")), 1):
        with tarfile.open(tmp_path / f"sandbox.{n}.tar", "w") as packed:
            facts = tarfile.TarInfo(name)
            content = f"#!/bin/sh\n{body}\n".encode()
            facts.size = len(content)
            packed.addfile(facts, io.BytesIO(content))
    work = work_of(f'Executable = "{executable}"; Arguments = "\'a b\' c"; InputSandbox = "{SANDBOX}";').work

    ended = subprocess.run([work.executable, *work.arguments], cwd=tmp_path, capture_output=True, text=True, timeout=20)

    assert (ended.stdout, ended.stderr, ended.returncode) == (f"{said}\n", "", 0)
    assert list(tmp_path.glob("*.tar")) == []


def test_a_platform_is_known_by_its_word_its_processor_or_what_the_settings_say() -> None:
    assert fits_platform((), "linux-x86_64", {})
    assert fits_platform(("x86_64-el9",), "linux-x86_64", {})
    assert not fits_platform(("aarch64-el9",), "linux-x86_64", {})
    assert fits_platform(("Debian12",), "linux-x86_64", {"Debian12": "linux-x86_64"})
    assert not fits_platform(("Debian12",), "linux-x86_64", {})
