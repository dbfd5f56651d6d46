"""Logs: UTC, without secrets, and never longer than they may be, whoever writes to standard error."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from broker.daemon.logs import LOGS_KEPT, EventFormatter
from broker.masking import mask

SECRET = "pLanted-7"


def line(message: str, **fields: object) -> str:
    record = logging.makeLogRecord({"msg": message, "levelname": "INFO", "created": 0.25, "msecs": 250.0, **fields})
    return EventFormatter("keys").format(record)


def run(code: str, log: Path, *, mode: str = "ab") -> None:
    with log.open(mode) as stderr:
        subprocess.run([sys.executable, "-c", code], stderr=stderr, check=True, timeout=60)


def test_a_line_says_its_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")

    assert line("started", vm="vm-1") == "1970-01-01T00:00:00.250Z INFO keys started vm='vm-1'"


@pytest.mark.parametrize(
    "text",
    [
        f"ledger='postgresql://volcloud:{SECRET}@db/volcloud'",
        f"postgresql+psycopg://u:a@b{SECRET}@db:5432/x?sslmode=require",
        f"amqp://:{SECRET}@127.0.0.1:5672",
        f"host=db password={SECRET} user=u",
        f'{{"user": "u", "password": "{SECRET}"}}',
        f"{{'login_password': '{SECRET} and more', 'n': 1}}",
        f"PGPASSWORD={SECRET}",
        f"to\u212aen={SECRET}",
        f"pa\u017fsword={SECRET}",
        f"GET 'http://s3.example/box?X-Amz-Expires=60&X-Amz-Signature={SECRET}' 200",
        f"https://blob.example/a/b?sv=2024&sig={SECRET}&se=1",
        f"root://se.example//a?authz=Bearer%20{SECRET}",
        f"token = 'eyJ{SECRET}'",
        f"token = '/9j/{SECRET}'",
        f"secret='/{SECRET}'",
        f"secret_file = '{SECRET}'",
        f"secret_file = '/etc/x' password = '/{SECRET}'",
        f"secret_file = '/etc/x {SECRET}'",
        f"token_files = '/{SECRET}'",
        f"Settings(password=\\'{SECRET} and more\\')",
        f'{{\\"password\\": \\"{SECRET}\\"}}',
        f'password="a\\"b{SECRET}"',
        f"{{'password': 'a\\'{SECRET}'}}",
        f"password='cut off {SECRET}",
    ],
)
def test_a_secret_is_masked_wherever_people_put_it(text: str) -> None:
    shown = mask(text)

    assert SECRET not in shown
    assert "***" in shown
    assert mask(shown) == shown


@pytest.mark.parametrize(
    "text", ["sqlite:////srv/ledger.db", "http://127.0.0.1:15672", "http://h/p?page=2", "no secret", "a@b"]
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert mask(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "secret_file = '/etc/volunteer-cloud/rucio-password': cannot be read: No such file or directory",
        "secret_file=/etc/x",
        '{"password_file": "/etc/x"}',
        "BEARER_TOKEN_FILE='/run/token'",
        "login_token_path = '/run/token'",
    ],
)
def test_where_a_secret_is_kept_is_no_secret(text: str) -> None:
    assert mask(text) == text


def test_of_what_libraries_say_warnings_alone_are_written(tmp_path: Path) -> None:
    log = tmp_path / "log"
    said = "for name in ('adapters.sources', 'httpx'):\n for say in ('info', 'warning'):\n"
    code = f"from broker.daemon.logs import log_to_stderr\nimport logging\nlog_to_stderr('p')\n{said}"
    run(f"{code}  getattr(logging.getLogger(name), say)(f'{{name}} {{say}}')\n", log)

    assert [line.partition(" p ")[2] for line in log.read_text().splitlines()] == [
        "adapters.sources info",
        "adapters.sources warning",
        "httpx warning",
    ]


def test_a_secret_in_a_traceback_is_masked() -> None:
    try:
        raise ValueError(f"cannot use postgresql://u:{SECRET}@db/x")
    except ValueError:
        shown = line("failed", exc_info=sys.exc_info())

    assert "Traceback" in shown
    assert SECRET not in shown


def test_a_log_is_put_aside_while_it_is_written_and_no_line_is_lost(tmp_path: Path) -> None:
    code = """if True:
        import logging, sys
        from broker.daemon import logs
        logs.LOG_BYTES = 4000
        logs.log_to_stderr("p")
        for n in range(600):
            logging.getLogger("broker.x").info("line %d", n)
            print("raw", n, file=sys.stderr)
    """
    run(code, tmp_path / "p.log")

    parts = sorted(tmp_path.iterdir(), key=lambda path: path.name, reverse=True)
    said = "".join(path.read_text() for path in parts)
    assert [path.name for path in parts] == [*(f"p.log.{n}" for n in range(LOGS_KEPT, 0, -1)), "p.log"]
    assert all(path.stat().st_size < 4200 for path in parts)
    kept = [int(n) for n in re.findall(r"line (\d+)", said)]
    assert kept == list(range(kept[0], 600))
    assert [int(n) for n in re.findall(r"raw (\d+)", said)][-1] == 599
    assert "raw 599" in parts[-1].read_text()


def test_a_log_that_a_full_disk_does_not_let_be_closed_goes_on_in_a_new_file(tmp_path: Path) -> None:
    code = """if True:
        import logging
        from broker.daemon import logs
        logs.LOG_BYTES = 4000
        logs.log_to_stderr("p")
        handler, = logging.getLogger().handlers
        close = handler.stream.close
        def full():
            close()
            raise OSError(28, "No space left on device")
        handler.stream.close = full
        for n in range(100):
            logging.getLogger("broker.x").info("line %d", n)
    """
    run(code, tmp_path / "p.log")

    said = "".join(path.read_text() for path in sorted(tmp_path.iterdir(), reverse=True))
    assert [int(n) for n in re.findall(r"line (\d+)", said)] == list(range(100))
    assert "Traceback" not in said


def test_a_standard_error_that_is_a_pipe_is_left_as_it_is(tmp_path: Path) -> None:
    code = "import logging; from broker.daemon.logs import log_to_stderr; log_to_stderr('p'); logging.warning('heard')"

    done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, check=True, timeout=60)

    assert done.stderr.endswith(b"Z WARNING p heard\n")
