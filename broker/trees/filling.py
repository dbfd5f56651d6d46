"""Makes files of the bytes that come behind a manifest, one after the other. Blocking."""

from __future__ import annotations

from broker.errors import TransferFailed
from broker.trees.incoming import IncomingFile
from broker.trees.manifest import Manifest
from broker.trees.placing import Placing
from schemas.errors import ErrorCode
from schemas.trees import TreeFile


class Filling:
    """See the module. A small file that comes whole into a new tree is written where it belongs, others aside first."""

    def __init__(self, manifest: Manifest, placing: Placing, gathering: int, files: list[int]) -> None:
        """Begin with the first of ``files``, places in the manifest; what of it is there is not asked for."""
        self._manifest, self._placing, self._gathering = manifest, placing, gathering
        self._todo = [(index, entry) for index in files if isinstance(entry := manifest.entries[index], TreeFile)][::-1]
        self._now: tuple[int, TreeFile] | None = None
        self._file: IncomingFile | None = None
        #: Files whose bytes were not those of the manifest, by their places.
        self.changed: list[int] = []
        self._next()

    @property
    def offset(self) -> int:
        """How far the stream is."""
        if self._now is None:
            return self._manifest.size
        return self._manifest.start_of(self._now[0]) + (self._file.taken if self._file is not None else 0)

    def take(self, data: memoryview) -> None:
        """Take the next bytes that were wanted. Raises OSError."""
        while data:
            if self._now is None:
                raise TransferFailed(ErrorCode.INTERNAL, "more of the tree came than is missing")
            index, entry = self._now
            if self._file is None and len(data) >= entry.length:
                count = entry.length
                self._end(index, is_right=self._placing.put(index, entry, data[:count]))
            else:
                file = self._file = self._file or self._begin(index, entry)
                count = min(len(data), file.left)
                file.write(data[:count])
                self._finish_if_whole(index, file)
            data = data[count:]
            self._next()

    def close(self) -> None:
        """Let go; what is durable of a large file stays. Idempotent."""
        if self._file is not None:
            try:
                self._file.make_durable()
            finally:
                self._file.close()
                self._file = None

    def _begin(self, index: int, entry: TreeFile) -> IncomingFile:
        self._placing.make_way_for(entry)
        return IncomingFile(self._gathering, entry, index)

    def _finish_if_whole(self, index: int, file: IncomingFile) -> None:
        if not file.left:
            is_right = file.finish()
            if is_right:
                self._placing.add(index, file.name)
            self._end(index, is_right=is_right)

    def _end(self, index: int, *, is_right: bool) -> None:
        if not is_right:
            self.changed.append(index)
        self._now, self._file = None, None

    def _next(self) -> None:
        """Go to the next file of which anything is to come; those without a byte are made on the way."""
        while self._now is None and self._todo:
            index, entry = self._now = self._todo.pop()
            if not self._placing.puts(entry):
                self._file = self._begin(index, entry)
                self._finish_if_whole(index, self._file)
            elif not entry.length:
                self._end(index, is_right=self._placing.put(index, entry, memoryview(b"")))
