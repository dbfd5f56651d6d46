"""Stands in for the guest agent in a test image: tells a server at the broker's address what it sees, does as told.

Copied into the image as ``guest_agent/main.py``; not a test itself, and in no image that anyone else gets.
"""

import asyncio
import json
import os
import socket

from guest_agent.seed import SeedSource

BROKER = ("10.0.2.100", 5672)


def reach(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), 2.0):
            return "reached"
    except OSError as error:
        return type(error).__name__


def look() -> dict[str, object]:
    import ctypes
    import ssl
    import zipfile

    import msgpack
    import msgspec
    import pika

    disk = os.statvfs("/")
    return {
        "modules": [module.__name__ for module in (ctypes, ssl, zipfile, msgpack, msgspec, pika)],
        "libstdcxx": ctypes.CDLL("libstdc++.so.6") is not None,
        "disk_mib": disk.f_blocks * disk.f_frsize >> 20,
        "users": [line.split(":")[0] for line in open("/etc/passwd")],  # noqa: PTH123
        "uptime_s": time_up(),
        "pid": os.getpid(),
    }


def time_up() -> float:
    with open("/proc/uptime") as file:  # noqa: PTH123
        return float(file.read().split()[0])


async def obey(reader: asyncio.StreamReader, say) -> None:
    while line := await reader.readline():
        command = json.loads(line)
        if "reach" in command:
            say(reach=await asyncio.to_thread(reach, *command["reach"]))
        if "look" in command:
            say(look=look())
        if "shell" in command:
            process = await asyncio.create_subprocess_shell(command["shell"], stdout=-1, stderr=-2)
            say(shell=(await process.communicate())[0].decode())


async def session(source: SeedSource) -> None:
    reader, writer = await asyncio.open_connection(*BROKER)

    def say(**what: object) -> None:
        writer.write(json.dumps(what).encode() + b"\n")

    async def tell_seeds() -> None:
        async for seed in source.watch():
            say(seed=seed.decode())

    telling = asyncio.ensure_future(tell_seeds())
    try:
        await obey(reader, say)
    finally:
        telling.cancel()
        writer.close()


async def main() -> None:
    source = SeedSource(None)
    while True:
        try:
            await session(source)
        except OSError as error:
            print("probe:", error, flush=True)
        await asyncio.sleep(0.2)


asyncio.run(main())
