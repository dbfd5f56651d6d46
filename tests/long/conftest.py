"""What `make long` saw goes into the page of evidence."""

from __future__ import annotations

from tests.evidence import Recorder

_recorder = Recorder("long")
pytest_runtest_logreport = _recorder.note
pytest_sessionfinish = _recorder.write
