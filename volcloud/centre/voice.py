"""What a system says while it comes up, holds and goes down: to a person, as long as there is one, and to its log.

A terminal that was closed, a pipe that nobody reads and a disk that is full end no system: what cannot be told is not
told, and the log has it.
"""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

from broker.masking import mask
from schemas.plain_text import plain_lines
from volcloud.telling import silence

log = logging.getLogger("volcloud.centre")


class Voice:
    """Prints progress with the time since it was made; silent once nobody listens."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._began = time.monotonic()
        #: Somebody reads what is printed, as far as is known.
        self.is_heard = True

    def say(self, text: str) -> None:
        """Tell it, without any secret. Never raises."""
        log.info(text)
        if self.is_heard:
            self._print(f"{time.monotonic() - self._began:6.1f} s  {plain_lines(mask(text))}\n")

    def _print(self, line: str) -> None:
        try:
            self._stream.write(line)
            self._stream.flush()
        except (OSError, ValueError) as error:
            self.is_heard = False
            log.info("nobody reads what is printed any more; this log goes on", extra={"why": str(error)})
            silence(self._stream)
