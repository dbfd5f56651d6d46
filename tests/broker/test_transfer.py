"""Files over a real broker: links cut, receivers replaced, files that change, disks that fill."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.address import Address
from broker.connection import Connection
from broker.errors import TransferFailed
from broker.routes import queue_of, reply_queue
from broker.transfer import Transfers, into_file
from broker.transfer.peer import ANY_ADAPTER
from broker.transfer.sending import digest_file
from schemas.codec import decode
from schemas.errors import ErrorCode
from schemas.files import FileChunk, FileGet, FileOffer, GuestFile, InputFile
from schemas.ids import uuid7
from tests.broker.polling import until
from tests.broker.proxy import Proxy
from volcloud.client.watched_transfers import WatchedTransfers

Mint = Callable[..., Address]
MIB = 1 << 20
SUFFIX = "abc123"


class End:
    """One end: its connection, its transfers, and what was opened with it and not yet served."""

    def __init__(self, connection: Connection, transfers: Transfers) -> None:
        self.connection, self.transfers = connection, transfers
        self.openings: asyncio.Queue[tuple[str, FileOffer | FileGet]] = asyncio.Queue()

    def on_delivery(self, delivery: object) -> None:
        message = decode(delivery.body)  # type: ignore[attr-defined]
        if isinstance(message, FileOffer | FileGet) and not self.transfers.is_open(message.id):
            delivery.ack()  # type: ignore[attr-defined]
            self.openings.put_nowait((delivery.user_id, message))  # type: ignore[attr-defined]
        else:
            self.transfers.on_delivery(delivery)  # type: ignore[arg-type]


@asynccontextmanager
async def vm_end(address: Address) -> AsyncIterator[End]:
    async with Connection(address, name="vm") as connection:
        end = End(connection, Transfers(connection))
        await connection.consume(f"{queue_of(address.user)}.files", end.on_delivery, prefetch=64)
        yield end


@asynccontextmanager
async def console_end(address: Address) -> AsyncIterator[End]:
    async with Connection(address, name="console") as connection:
        end = End(connection, Transfers(connection, my_suffix=SUFFIX))
        await connection.consume(
            reply_queue(address.user, SUFFIX), end.on_delivery, bind_to=("vc.up", f"*.reply.{address.user}-{SUFFIX}")
        )
        yield end


@asynccontextmanager
async def adapter_end(address: Address) -> AsyncIterator[End]:
    async with Connection(address, name="adapter") as connection:
        end = End(connection, Transfers(connection))
        for queue in ("vc.offers", f"vc.chunks.{address.user}", f"vc.control.{address.user}"):
            await connection.consume(queue, end.on_delivery, prefetch=64)
        yield end


def a_file(path: Path, size: int) -> FileOffer:
    path.write_bytes(os.urandom(size))
    length, sha256 = digest_file(path)
    return FileOffer(id=uuid7(), file=GuestFile(path="x"), size=length, sha256=sha256)


def cut_at(proxy: Proxy, size: int, *, up: bool) -> None:
    """Cut the link when 10, 30, 50, 70 and 90 % of the file have gone by."""
    marks = [int(size * share) for share in (0.1, 0.3, 0.5, 0.7, 0.9)]

    def watch(up_bytes: int, down_bytes: int) -> None:
        if marks and (up_bytes if up else down_bytes) > marks[0]:
            marks.pop(0)
            proxy.cut()

    proxy.watch = watch


def cancel_above(task: asyncio.Future[Any], size: int) -> None:
    """Stop one end in the midst of a file."""
    if size > 4 * MIB:
        task.cancel()


async def test_a_push_over_a_link_cut_five_times_arrives_with_little_sent_twice(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    offer = a_file(tmp_path / "source", 64 * MIB)
    async with Proxy(console) as proxy:
        cut_at(proxy, offer.size, up=True)
        async with vm_end(vm) as guest, console_end(proxy.address) as person:
            sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, vm.user))
            sender, came = await guest.openings.get()
            assert isinstance(came, FileOffer)

            await guest.transfers.receive_file(
                came, into_file(tmp_path / "target", tmp_path / "part"), sender, came.reply
            )
            sent = (await sending).sent_bytes

    assert proxy.cuts >= 5
    assert digest_file(tmp_path / "target")[1] == offer.sha256
    assert sent < 1.2 * offer.size
    assert proxy.up_bytes < 1.2 * offer.size


async def test_a_pull_over_a_link_cut_five_times_arrives_with_little_sent_twice(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    offer = a_file(tmp_path / "source", 64 * MIB)
    async with Proxy(vm) as proxy:
        cut_at(proxy, offer.size, up=True)
        async with vm_end(proxy.address) as guest, console_end(console) as person:
            get = FileGet(file=GuestFile(path="x"))
            fetching = asyncio.ensure_future(
                person.transfers.fetch_file(get, into_file(tmp_path / "target", tmp_path / "part"), vm.user)
            )
            asker, came = await guest.openings.get()
            answer = msgspec.structs.replace(offer, id=came.id)

            sending = await guest.transfers.send_file(tmp_path / "source", answer, asker, came.reply)
            await fetching

    assert proxy.cuts >= 5
    assert digest_file(tmp_path / "target")[1] == offer.sha256
    assert sending.sent_bytes < 1.2 * offer.size
    assert proxy.up_bytes < 1.2 * offer.size


async def test_a_pull_outlasts_a_broker_that_is_frozen_for_longer_than_a_silence_may_be(
    mint: Mint, tmp_path: Path
) -> None:
    """Frozen for a minute, it once had push and pull give up as it came back, and blame the VM."""
    vm, console = mint("vm"), mint("console")
    offer = a_file(tmp_path / "source", 16 * MIB)
    async with Proxy(console) as proxy:
        there = proxy.address
        async with vm_end(vm) as guest, console_end(there) as person:
            calls = WatchedTransfers(person.transfers, still_s=4.5)
            pulling = asyncio.ensure_future(calls.pull(vm.user, "x", tmp_path / "target"))
            asker, came = await guest.openings.get()
            sending = asyncio.ensure_future(
                guest.transfers.send_file(
                    tmp_path / "source", msgspec.structs.replace(offer, id=came.id), asker, came.reply
                )
            )
            await until(lambda: proxy.down_bytes > 4 * MIB)
            proxy.freeze()
            await asyncio.sleep(6)
            assert not pulling.done()
            proxy.thaw()
            await asyncio.wait_for(pulling, 60)
            await sending

    assert digest_file(tmp_path / "target")[1] == offer.sha256


async def test_another_adapter_takes_over_where_the_partial_file_is_shared(mint: Mint, tmp_path: Path) -> None:
    console, first, second = mint("console"), mint("adapter", "store-1"), mint("adapter", "store-2")
    offer = a_file(tmp_path / "source", 16 * MIB)
    file, target, part = InputFile(sha256=offer.sha256), tmp_path / "target", tmp_path / "part"
    offer = msgspec.structs.replace(offer, file=file)
    async with console_end(console) as person:
        async with adapter_end(first) as store:
            sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, ANY_ADAPTER))
            _, came = await store.openings.get()
            assert isinstance(came, FileOffer)
            receiving = asyncio.ensure_future(
                store.transfers.receive_file(
                    came,
                    into_file(target, part),
                    console.user,
                    came.reply,
                    progress=lambda size: cancel_above(receiving, size),
                )
            )
            await asyncio.gather(receiving, return_exceptions=True)
            assert receiving.cancelled()
        async with adapter_end(second) as store:
            _, came = await store.openings.get()
            assert isinstance(came, FileOffer)
            await store.transfers.receive_file(came, into_file(target, part), console.user, came.reply)
        sent = (await sending).sent_bytes

    assert digest_file(target)[1] == offer.sha256
    assert sent < 1.5 * offer.size


async def test_a_guest_that_loses_its_adapter_gets_the_file_from_another(mint: Mint, tmp_path: Path) -> None:
    vm, first, second = mint("vm"), mint("adapter", "store-1"), mint("adapter", "store-2")
    offer = a_file(tmp_path / "source", 16 * MIB)
    get = FileGet(file=InputFile(sha256=offer.sha256))
    answer = msgspec.structs.replace(offer, id=get.id, file=get.file)
    part = tmp_path / "part"
    async with vm_end(vm) as guest:
        fetching = asyncio.ensure_future(
            guest.transfers.fetch_file(get, into_file(tmp_path / "target", part), ANY_ADAPTER, ask_every_s=0.5)
        )
        async with adapter_end(first) as store:
            await store.openings.get()
            sending = asyncio.ensure_future(
                store.transfers.send_file(
                    tmp_path / "source", answer, vm.user, progress=lambda size: cancel_above(sending, size)
                )
            )
            await asyncio.gather(sending, return_exceptions=True)
            assert sending.cancelled()
        async with adapter_end(second) as store:
            await store.openings.get()
            await store.transfers.send_file(tmp_path / "source", answer, vm.user)
        await asyncio.wait_for(fetching, 20)

    assert digest_file(tmp_path / "target")[1] == offer.sha256


async def test_a_file_that_is_not_what_was_offered_leaves_nothing_under_its_name(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    offer = msgspec.structs.replace(a_file(tmp_path / "source", MIB), sha256="0" * 64)
    async with vm_end(vm) as guest, console_end(console) as person:
        sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, vm.user))
        sender, came = await guest.openings.get()
        assert isinstance(came, FileOffer)

        with pytest.raises(TransferFailed, match="SHA-256"):
            await guest.transfers.receive_file(
                came, into_file(tmp_path / "target", tmp_path / "part"), sender, came.reply
            )
        with pytest.raises(TransferFailed) as caught:
            await sending

    assert caught.value.code == ErrorCode.CONFLICT
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "part").exists()


async def test_an_empty_file_arrives_too(mint: Mint, tmp_path: Path) -> None:
    vm, console = mint("vm"), mint("console")
    offer = a_file(tmp_path / "source", 0)
    async with vm_end(vm) as guest, console_end(console) as person:
        sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, vm.user))
        sender, came = await guest.openings.get()
        assert isinstance(came, FileOffer)

        await guest.transfers.receive_file(came, into_file(tmp_path / "target", tmp_path / "part"), sender, came.reply)
        await sending

    assert (tmp_path / "target").read_bytes() == b""


async def test_chunks_of_a_stranger_or_for_no_open_transfer_are_dropped_and_counted(mint: Mint, tmp_path: Path) -> None:
    vm, stranger, console = mint("vm"), mint("console"), mint("console")
    offer = a_file(tmp_path / "source", MIB)
    async with vm_end(vm) as guest, console_end(console) as person, console_end(stranger) as thief:
        sending = asyncio.ensure_future(person.transfers.send_file(tmp_path / "source", offer, vm.user))
        sender, came = await guest.openings.get()
        assert isinstance(came, FileOffer)
        chunk = FileChunk(transfer=offer.id, epoch=1 << 60, offset=0, crc32=0, data=b"evil")
        thief.transfers.tell(vm.user, "", chunk)
        thief.transfers.tell(vm.user, "", msgspec.structs.replace(chunk, transfer="no-such-transfer"))
        await guest.transfers.receive_file(came, into_file(tmp_path / "target", tmp_path / "part"), sender, came.reply)
        await sending
        await until(lambda: guest.transfers.refused["no_such_transfer"] == 2)

    assert digest_file(tmp_path / "target")[1] == offer.sha256
