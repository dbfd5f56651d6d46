"""One contract, every catalogue: files known once, as they are, and refused in words where that cannot be."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from adapters.catalogues.contract import Catalogue, Replica
from adapters.catalogues.memory import MemoryCatalogue
from adapters.catalogues.rucio import make_rucio
from adapters.catalogues.rucio_catalogue import RucioCatalogue
from adapters.catalogues.rucio_session import RucioSession
from adapters.errors import CatalogueUnavailable
from adapters.grid_stores.names import collection_name, copy_name
from tests.grid_stores.xrootd_peer import XrootdPeer

#: The first one may have to install Rucio.
pytestmark = pytest.mark.timeout(900)

#: So that no test finds what another one has registered.
_NUMBERS = itertools.count(1)


@pytest.fixture(params=["memory", "rucio"])
def catalogue(request: pytest.FixtureRequest) -> Catalogue:
    return MemoryCatalogue() if request.param == "memory" else make_rucio(request.getfixturevalue("settings"))


@pytest.fixture
def copies(storage: XrootdPeer) -> list[Replica]:
    job = f"site-a/contract-{next(_NUMBERS)}.1"
    names = [copy_name(job, 1, output) for output in ("histogram.root", "deep/er out.txt", "log.txt")]
    return [
        Replica(name=name, size=size, adler32="0badcafe", url=f"{storage.url}/{name}", collection=collection_name(job))
        for size, name in enumerate(names)
    ]


def test_files_are_registered_again_and_again(catalogue: Catalogue, copies: list[Replica]) -> None:
    assert catalogue.register([*copies, copies[0]]) == {}
    assert [dict(catalogue.register(copies)) for _ in range(3)] == [{}, {}, {}]
    assert catalogue.register([]) == {}


@pytest.mark.parametrize(("field", "other"), [("adler32", "00000001"), ("size", 77)])
def test_another_file_of_a_known_name_is_refused_with_both_and_nobody_else(
    catalogue: Catalogue, copies: list[Replica], field: str, other: object
) -> None:
    catalogue.register(copies[:1])
    changed = msgspec.structs.replace(copies[0], **{field: other})

    refused = catalogue.register([changed, *copies[1:]])

    assert list(refused) == [copies[0].name]
    for value in (getattr(copies[0], field), other):
        assert str(value) in refused[copies[0].name]
    assert catalogue.register(copies) == {}


def test_a_file_that_is_elsewhere_than_is_known_is_refused(catalogue: Catalogue, copies: list[Replica]) -> None:
    catalogue.register(copies)
    moved = msgspec.structs.replace(copies[0], url=f"{copies[0].url}.elsewhere")

    assert list(catalogue.register([moved, *copies[1:]])) == [copies[0].name]


def test_two_files_of_one_name_at_once_are_told_apart(catalogue: Catalogue, copies: list[Replica]) -> None:
    assert list(catalogue.register([copies[0], msgspec.structs.replace(copies[0], size=9)])) == [copies[0].name]


def test_what_lets_us_in_is_tried_out_and_may_be_closed_twice(catalogue: Catalogue) -> None:
    catalogue.try_out()
    assert isinstance(catalogue, MemoryCatalogue) or _session(catalogue)._token

    catalogue.close()
    catalogue.close()

    assert catalogue.is_closed if isinstance(catalogue, MemoryCatalogue) else _session(catalogue)._client.is_closed


def _session(catalogue: Catalogue) -> RucioSession:
    assert isinstance(catalogue, RucioCatalogue)
    return catalogue._session


def test_the_one_in_memory_can_be_in_trouble_or_dislike_a_name(copies: list[Replica]) -> None:
    catalogue = MemoryCatalogue()
    catalogue.trouble = CatalogueUnavailable("catalogue memory: away")
    with pytest.raises(CatalogueUnavailable):
        catalogue.register(copies)
    catalogue.trouble = None
    catalogue.disliked = {copies[1].name: "not here"}

    assert catalogue.register(copies) == {copies[1].name: "not here"}
    assert sorted(catalogue.known) == sorted(copy.name for copy in (copies[0], copies[2]))
    assert catalogue.calls == [3]
