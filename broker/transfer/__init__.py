"""Files over queues, in chunks under a window that the receiver grants; both ends resume."""

from broker.transfer.landing import into_file
from broker.transfer.receiving import Receiving
from broker.transfer.sending import Sending
from broker.transfer.transfers import Transfers

__all__ = ["Receiving", "Sending", "Transfers", "into_file"]
