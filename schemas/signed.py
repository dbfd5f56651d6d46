"""A message inside a message, sealed: who gets it need not trust the broker that brought it.

The seal covers the exact bytes of the message inside, so bundles, journals and outboxes carry it unchanged. No
algorithm is fixed yet: who knows none refuses it.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from schemas.envelope import MAX_BODY_BYTES, Message

#: Longest seal, bytes.
MOST_SEAL_BYTES = 4096


class Signed(Message, frozen=True, kw_only=True, tag="message.signed"):
    """A message's exact bytes, and the seal of one who stands for them. Its id is the inner message's."""

    body: Annotated[bytes, Meta(min_length=1, max_length=MAX_BODY_BYTES)]
    #: Whose seal it is: the name of a key, which need not be a principal.
    signer: Annotated[str, Meta(min_length=1, max_length=128)]
    #: How it was made, such as ``ed25519``.
    algorithm: Annotated[str, Meta(min_length=1, max_length=32)]
    seal: Annotated[bytes, Meta(min_length=1, max_length=MOST_SEAL_BYTES)]
