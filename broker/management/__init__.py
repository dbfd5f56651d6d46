"""RabbitMQ's management API, typed: the administrator's hand on users, rights, limits, queues and connections.

Only the key manager and an operator at the broker hold a credential for it. Calls block and belong in a thread of
asyncio's pool; an object holds no connection, so any thread may use it. Each may be made again: what is made is as it
is said to be, and deleting what is gone succeeds. All raise ManagementError.
"""

from broker.management.connections import MAX_LABEL, ConnectionInfo
from broker.management.management import Management
from broker.management.topology import QueueInfo
from broker.management.users import MAX_CONNECTIONS

__all__ = ["MAX_CONNECTIONS", "MAX_LABEL", "ConnectionInfo", "Management", "QueueInfo"]
