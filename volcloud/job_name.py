"""How people name jobs: ``id`` for a whole submission, ``id.index`` for one of its jobs, ``owner/`` before either."""

from __future__ import annotations

import re

import msgspec

from volcloud.errors import BadInput

#: A dot in the id is none before the index, nor before what would be one.
_NAME = re.compile(
    r"^(?:([a-z0-9-]+)/)?([A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?![0-9]+(?:\.[0-9]+)?$)){0,127})(?:\.([1-9][0-9]{0,6}))?$"
)


class JobName(msgspec.Struct, frozen=True):
    """What was typed: ``owner`` empty = whoever's it is, ``index`` 0 = all of the array."""

    owner: str
    job: str
    index: int

    def __str__(self) -> str:
        return f"{self.owner}/{self.within_owner}" if self.owner else self.within_owner

    @property
    def within_owner(self) -> str:
        """The name without its owner."""
        return f"{self.job}.{self.index}" if self.index else self.job


def read_job_name(text: str) -> JobName:
    """Take a job's name apart. Raises BadInput."""
    match = _NAME.match(text)
    if match is None:
        raise BadInput(
            f"job {text!r}: must be id, id.index or owner/id.index, such as hello-1.3",
            "`volcloud job list` shows the names",
        )
    return JobName(match[1] or "", match[2], int(match[3] or 0))
