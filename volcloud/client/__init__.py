"""The Python client of Volunteer Cloud: submit jobs, follow them, take their outputs home; drive VMs.

    from volcloud import Client

    with Client.connect() as cloud:
        cloud.jobs.submit({"id": "hello-1", "executable": "/bin/echo", "arguments": ["hello"]})
        cloud.jobs.wait("hello-1")
        print(cloud.jobs.logs("hello-1")["stdout"].decode())

    from volcloud import AsyncClient

    async with await AsyncClient.connect() as cloud:
        for vm in await cloud.vms.list("atlas-*"):
            await cloud.vms.start(vm.status.vm)

``Client`` blocks and may be used from one thread at a time; ``AsyncClient`` is the same for asyncio, each method a
coroutine. What they ask about is in rooms: ``vms``, ``jobs``, ``files``, ``trees``, ``execs``, ``hosts``, ``sites``,
``sources``, ``agents``.
Errors are ``volcloud.errors`` and ``broker.errors``; each says what to do next.
"""

from volcloud.client.async_client import AsyncClient
from volcloud.client.blocking_client import Client

__all__ = ["AsyncClient", "Client"]
