"""Trees over a real broker: links cut, agents killed, pushes to one place at once, commands meanwhile."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.address import Address
from broker.connection import Connection
from broker.errors import TransferFailed
from broker.routes import queue_of
from broker.transfer import Transfers
from broker.trees import TreeSource
from guest_agent.files import ConsoleFiles
from schemas.codec import decode
from schemas.files import FileGet, FileOffer, GuestTree
from tests.broker.polling import until
from tests.broker.proxy import Proxy
from tests.broker.test_transfer import End, console_end
from tests.unit.trees import make_tree, offer_of, opener, read_of, seen
from volcloud.client.trees import TreePull
from volcloud.client.watched_transfers import WatchedTransfers

Mint = Callable[..., Address]
MIB = 1 << 20


class Guest:
    """A VM's agent, as far as it has to do with files."""

    def __init__(self, connection: Connection, directory: Path) -> None:
        self.area = directory / "files"
        self.area.mkdir(exist_ok=True)
        self.transfers = Transfers(connection)
        self.files = ConsoleFiles(self.transfers, self.area, directory / "partial")

    def on_delivery(self, delivery: object) -> None:
        message = decode(delivery.body)  # type: ignore[attr-defined]
        if isinstance(message, FileOffer | FileGet):
            delivery.ack()  # type: ignore[attr-defined]
            assert self.files.on_opening(delivery.user_id, message)  # type: ignore[attr-defined]
        else:
            self.transfers.on_delivery(delivery)  # type: ignore[arg-type]


@asynccontextmanager
async def guest_end(address: Address, directory: Path) -> AsyncIterator[Guest]:
    async with Connection(address, name="vm") as connection:
        guest = Guest(connection, directory)
        await connection.consume(f"{queue_of(address.user)}.files", guest.on_delivery, prefetch=64)
        yield guest
        await guest.files.close()


def offer_to(source: TreeSource, path: str, own_name: bytes = b"") -> FileOffer:
    tree = GuestTree(path=path, manifest=source.manifest.length, source=own_name)
    return FileOffer(file=tree, size=source.manifest.size, sha256=source.sha256)


def large_tree(root: Path) -> Path:
    make_tree(root)
    (root / "many").mkdir()
    for number in range(1000):
        (root / "many" / str(number)).write_bytes(os.urandom(4096))
    for number in range(3):
        (root / f"large-{number}").write_bytes(os.urandom(12 * MIB))
    return root


def cut_five_times(proxy: Proxy, size: int, then: Callable[[], None] = lambda: None) -> None:
    marks = [int(size * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]

    def watch(up_bytes: int, down_bytes: int) -> None:
        if marks and max(up_bytes, down_bytes) > marks[0]:
            marks.pop(0)
            proxy.cut()
            then()

    proxy.watch = watch


async def test_a_push_over_a_link_cut_five_times_arrives_with_little_sent_twice(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    source = read_of(large_tree(tmp_path / "source"))
    offer = offer_to(source, "place")
    async with Proxy(console) as proxy:
        cut_five_times(proxy, offer.size)
        async with guest_end(vm, tmp_path) as guest, console_end(proxy.address) as person:
            sending = await person.transfers.send(source, offer, vm.user)

    assert proxy.cuts >= 5
    assert seen(guest.area / "place") == seen(tmp_path / "source")
    assert sending.sent_bytes < 1.2 * offer.size
    assert proxy.up_bytes < 1.2 * offer.size
    assert list((tmp_path / "partial").iterdir()) == []


async def test_a_pull_over_a_link_cut_five_times_arrives_with_little_sent_twice(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    (tmp_path / "files").mkdir()
    source = large_tree(tmp_path / "files" / "source")
    size = read_of(source).manifest.size
    async with Proxy(vm) as proxy:
        cut_five_times(proxy, size)
        async with guest_end(proxy.address, tmp_path), console_end(console) as person:
            watched = WatchedTransfers(person.transfers)
            moved = await TreePull(watched, vm.user, "source", tmp_path / "target", None).run()

    assert proxy.cuts >= 5
    assert seen(tmp_path / "target") == seen(source)
    assert (moved.is_tree, moved.skipped) == (True, [])
    assert proxy.up_bytes < 1.2 * size
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


async def test_a_push_whose_agent_is_replaced_five_times_goes_on_where_it_was(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    source = read_of(large_tree(tmp_path / "source"))
    offer = offer_to(source, "place")
    async with console_end(console) as person:
        reached: list[int] = [0]
        sending = asyncio.ensure_future(person.transfers.send(source, offer, vm.user, progress=reached.append))
        for share in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
            goal = share * offer.size
            async with guest_end(vm, tmp_path):
                await until(lambda goal=goal: sending.done() or reached[-1] > goal, 60)  # type: ignore[misc]
        came = (await sending).sent_bytes

    assert seen(tmp_path / "files" / "place") == seen(tmp_path / "source")
    assert came < 1.2 * offer.size


async def test_the_last_of_two_pushes_to_one_place_has_it_and_the_other_is_told(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    first, last = large_tree(tmp_path / "first"), make_tree(tmp_path / "last")
    async with guest_end(vm, tmp_path) as guest, console_end(console) as person:
        reached: list[int] = []
        old = read_of(first)
        sending = asyncio.ensure_future(
            person.transfers.send(old, offer_to(old, "place"), vm.user, progress=reached.append)
        )
        await until(lambda: any(count > MIB for count in reached))
        new = read_of(last)
        await person.transfers.send(new, offer_to(new, "place"), vm.user)
        with pytest.raises(TransferFailed, match="has taken over"):
            await sending

    assert seen(guest.area / "place") == seen(last)


@pytest.mark.parametrize(
    ("path", "own_name", "where"),
    [
        (".", b"own", "own"),
        ("there", b"own", "there/own"),
        ("there", b"", "there"),
        ("new", b"own", "new"),
        ("new/", b"own", "new"),
        ("a/b/c", b"own", "a/b/c"),
        ("through", b"no\xffutf8", "there/no\udcffutf8"),
    ],
)
async def test_a_tree_goes_where_cp_would_have_it(
    mint: Mint, tmp_path: Path, path: str, own_name: bytes, where: str
) -> None:
    vm, console = mint("vm"), mint("console")
    (tmp_path / "source" / "d").mkdir(parents=True)
    (tmp_path / "source" / "d" / "f").write_text("f")
    async with guest_end(vm, tmp_path) as guest, console_end(console) as person:
        (guest.area / "there").mkdir()
        (guest.area / "through").symlink_to("there")
        source = read_of(tmp_path / "source")
        await person.transfers.send(source, offer_to(source, path, own_name), vm.user)

    assert (guest.area / where / "d" / "f").read_text() == "f"


@pytest.mark.parametrize(
    ("path", "own_name", "why"),
    [
        ("a\0b", b"own", "must be a relative path below the file area"),
        ("../x", b"own", "must be a relative path below the file area"),
        ("out", b"own", "must be a relative path below the file area"),
        ("there", b"..", "must be a relative path|one part of a path is allowed"),
        ("there", b"a/b", "one part of a path is allowed"),
        ("file", b"own", "'file' is no directory; name one, or a name that is free"),
        ("file/x", b"own", "no directory"),
    ],
)
async def test_a_tree_that_may_not_go_there_is_refused_and_leaves_nothing(
    mint: Mint, tmp_path: Path, path: str, own_name: bytes, why: str
) -> None:
    vm, console = mint("vm"), mint("console")
    (tmp_path / "source").mkdir()
    async with guest_end(vm, tmp_path) as guest, console_end(console) as person:
        (guest.area / "there").mkdir()
        (guest.area / "file").write_text("mine")
        (guest.area / "out").symlink_to(tmp_path)
        source = read_of(tmp_path / "source")
        with pytest.raises(TransferFailed, match=why):
            await person.transfers.send(source, offer_to(source, path, own_name), vm.user)

    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "partial") == ["files", "source"]
    assert sorted(one.name for one in guest.area.iterdir()) == ["file", "out", "there"]
    assert not (tmp_path / "partial").exists() or list((tmp_path / "partial").iterdir()) == []


@pytest.mark.parametrize(
    ("path", "local", "where"),
    [
        ("source", None, "source"),
        ("source", "there", "there/source"),
        ("source", "new", "new"),
        ("source/", "there", "there"),
        ("in/../source/deep", "new/er", "new/er"),
    ],
)
async def test_a_pull_goes_where_cp_would_have_it(
    mint: Mint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, local: str | None, where: str
) -> None:
    vm, console = mint("vm"), mint("console")
    (tmp_path / "files" / "in").mkdir(parents=True)
    source = make_tree(tmp_path / "files" / "source")
    (tmp_path / "here" / "there").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    async with guest_end(vm, tmp_path), console_end(console) as person:
        watched = WatchedTransfers(person.transfers)
        moved = await TreePull(watched, vm.user, path, local, None).run()

    expected = source / "deep" if path.endswith("deep") else source
    assert Path(moved.path) == Path(where)
    assert seen(Path(where)) == seen(expected)


async def test_a_pull_of_a_file_is_that_and_of_nothing_says_so(
    mint: Mint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, console = mint("vm"), mint("console")
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "f").write_text("content")
    monkeypatch.chdir(tmp_path)
    async with guest_end(vm, tmp_path), console_end(console) as person:
        watched = WatchedTransfers(person.transfers)
        moved = await TreePull(watched, vm.user, "f", None, None).run()
        with pytest.raises(TransferFailed, match="'nothing': No such file"):
            await TreePull(watched, vm.user, "nothing", None, None).run()

    assert (moved.is_tree, moved.path, moved.size) == (False, "f", 7)
    assert (tmp_path / "f").read_text() == "content"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["f", "files"]


async def test_an_offer_without_a_tree_is_no_place_for_one(mint: Mint, tmp_path: Path) -> None:
    """A stranger answers what nobody asked for: it is refused, and he hears so."""
    vm, console = mint("vm"), mint("console")
    (tmp_path / "source").mkdir()
    source = read_of(tmp_path / "source")
    async with Connection(vm, name="vm") as connection, console_end(console) as person:
        guest = End(connection, Transfers(connection))
        await connection.consume(f"{queue_of(vm.user)}.files", guest.on_delivery, prefetch=64)
        (tmp_path / "target").write_text("a file is here")
        pull = TreePull(WatchedTransfers(person.transfers), vm.user, "x", tmp_path / "target", None)
        pulling = asyncio.ensure_future(pull.run())
        asker, get = await guest.openings.get()
        offer = offer_of(TreeSource("x", opener(tmp_path / "source")))
        offer = FileOffer(id=get.id, file=offer.file, size=offer.size, sha256=offer.sha256)
        with pytest.raises(TransferFailed, match="target is no directory"):
            await guest.transfers.send(source, offer, asker, get.reply)
        with pytest.raises(TransferFailed, match="target is no directory"):
            await pulling

    assert (tmp_path / "target").read_text() == "a file is here"
