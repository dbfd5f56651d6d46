"""Files registered in Rucio: as replicas at a storage element, in a scope, gathered in datasets.

Rucio believes whoever comes second: a file that it knows with another checksum it takes without a word and keeps the
old one. So it is asked before, and again afterwards, since somebody may have been quicker. A request of which one file
is not liked fails as a whole; it is halved until the file is found.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from adapters.catalogues.contract import Replica
from adapters.catalogues.rucio import RucioSettings
from adapters.catalogues.rucio_session import RucioAnswer, RucioSession
from adapters.grid_stores.adler32 import as_said

#: Files in one request.
BATCH = 200

_ABSENT, _EXISTS = "DataIdentifierNotFound", "DataIdentifierAlreadyExists"
_SLASHES = re.compile("/+")


class RucioCatalogue:
    """A Rucio server, by its REST interface. Thread-safe."""

    def __init__(self, settings: RucioSettings) -> None:
        self._session = RucioSession(settings)
        self._scope, self._rse, self._separator = settings.scope, settings.rse, settings.separator

    def register(self, copies: Sequence[Replica]) -> Mapping[str, str]:
        """Have Rucio know these files; gives, by name, why one is not known, or not as it is."""
        refused: dict[str, str] = {}
        for start in range(0, len(copies), BATCH):
            refused |= self._register(copies[start : start + BATCH])
        return refused

    def try_out(self) -> None:
        """Log in."""
        self._session.log_in()

    def close(self) -> None:
        """Drop connections."""
        self._session.close()

    def _register(self, copies: Sequence[Replica]) -> dict[str, str]:
        refused = self._named_twice(copies)
        copies = list({copy.name: copy for copy in copies}.values())
        for step in (self._known_otherwise, self._add, self._not_as_it_is, self._gather):
            left = [copy for copy in copies if copy.name not in refused]
            if left:
                refused |= step(left)
        return refused

    def _named_twice(self, copies: Sequence[Replica]) -> dict[str, str]:
        first: dict[str, Replica] = {}
        return {
            copy.name: "two different files of this name were to be registered at once"
            for copy in copies
            if first.setdefault(copy.name, copy) != copy
        }

    def _known_otherwise(self, copies: Sequence[Replica]) -> dict[str, str]:
        """Find those that Rucio knows as something else."""
        known = self._by_name(self._session.post("/dids/bulkmeta", {"dids": self._dids(copies)}))
        return _found(copies, lambda copy: _otherwise(copy, known.get(self._name(copy.name))))

    def _add(self, copies: Sequence[Replica]) -> dict[str, str]:
        """Add replicas, all that Rucio takes; those that it knows stay as they are."""
        answer = self._session.post("/replicas/", {"rse": self._rse, "files": [self._file(copy) for copy in copies]})
        if not answer.fault:
            return {}
        if len(copies) == 1:
            return {copies[0].name: _said(answer)}
        half = len(copies) // 2
        return self._add(copies[:half]) | self._add(copies[half:])

    def _not_as_it_is(self, copies: Sequence[Replica]) -> dict[str, str]:
        """Find those that are not listed now as they are: size, checksum and physical name."""
        asked = {"dids": self._dids(copies), "rse_expression": self._rse, "all_states": True, "sort": "random"}
        listed = self._by_name(self._session.post("/replicas/list", asked))
        return _found(copies, lambda copy: self._listed_otherwise(copy, listed.get(self._name(copy.name))))

    def _listed_otherwise(self, copy: Replica, row: Mapping[str, Any] | None) -> str:
        if row is None:
            return f"Rucio does not list it at {self._rse}"
        urls = (row.get("rses") or {}).get(self._rse) or []
        if _plain_url(copy.url) not in map(_plain_url, urls):
            return f"Rucio has it at {self._rse} as {', '.join(urls) or 'nothing'}, and it is {copy.url}"
        return _otherwise(copy, row)

    def _gather(self, copies: Sequence[Replica]) -> dict[str, str]:
        """Attach files to their datasets, which are made where there are none."""
        refused: dict[str, str] = {}
        for collection, members in _by_collection(copies):
            said = self._attach(collection, members)
            if said:
                refused |= {copy.name: f"dataset {collection}: {said}" for copy in members}
        return refused

    def _attach(self, collection: str, members: Sequence[Replica]) -> str:
        dataset = {"scope": self._scope, "name": self._name(collection)}
        asked = {"attachments": [{**dataset, "dids": self._dids(members)}], "ignore_duplicate": True}
        answer = self._session.post("/dids/attachments", asked)
        if answer.fault == _ABSENT:
            made = self._session.post("/dids", [{**dataset, "type": "DATASET"}])
            if made.fault not in ("", _EXISTS):
                return _said(made)
            answer = self._session.post("/dids/attachments", asked)
        return _said(answer) if answer.fault else ""

    def _file(self, copy: Replica) -> dict[str, Any]:
        name = self._name(copy.name)
        return {"scope": self._scope, "name": name, "bytes": copy.size, "adler32": copy.adler32, "pfn": copy.url}

    def _dids(self, copies: Sequence[Replica]) -> list[dict[str, str]]:
        return [{"scope": self._scope, "name": self._name(copy.name)} for copy in copies]

    def _name(self, name: str) -> str:
        return name.replace("/", self._separator)  # copy names have no two dots: the name still has one reading

    def _by_name(self, answer: RucioAnswer) -> dict[str, dict[str, Any]]:
        return {str(row.get("name")): row for row in answer.rows if row.get("scope") == self._scope}


def _found(copies: Sequence[Replica], look: Callable[[Replica], str]) -> dict[str, str]:
    return {copy.name: words for copy in copies if (words := look(copy))}


def _otherwise(copy: Replica, row: Mapping[str, Any] | None) -> str:
    """Say what a file is known as, if that is something else than it is."""
    if row is None:
        return ""
    if row.get("did_type", "FILE") != "FILE":
        return f"Rucio has a {str(row['did_type']).lower()} of this name"
    checksum = as_said(str(row.get("adler32") or ""))
    if (row.get("bytes"), checksum) == (copy.size, copy.adler32):
        return ""
    known = f"{row.get('bytes')} bytes with adler32 {checksum or 'unknown'}"
    return f"Rucio has it with {known}, and it is {copy.size} bytes with adler32 {copy.adler32}"


def _by_collection(copies: Sequence[Replica]) -> Iterator[tuple[str, list[Replica]]]:
    for collection in sorted({copy.collection for copy in copies if copy.collection}):
        yield collection, [copy for copy in copies if copy.collection == collection]


def _plain_url(url: str) -> str:
    """Take two slashes in a path for one: Rucio adds one where it joins a path of its own to ours."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{_SLASHES.sub('/', rest)}"


def _said(answer: RucioAnswer) -> str:
    return f"Rucio says {answer.fault}: {answer.words}"
