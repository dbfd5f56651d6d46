"""What can go wrong on a volunteer's host, named after what the caller can do about it.

HostError
├── HypervisorError          the driver failed; the message says what the hypervisor said
│   ├── StopTimedOut         the guest did not shut down in time; poweroff is the next step
│   └── Unsupported          this driver can never do that; use another one
├── IllegalVerb              the VM is in a state from which the verb is not allowed
├── ImageError               an image is unknown, not allowed, or does not match its SHA-256
└── ConfigError              a setting is wrong; the message names key, value and what is allowed

``code`` is the word on the wire (``schemas.errors.ErrorCode``).
"""

from __future__ import annotations


class HostError(Exception):
    """Base of every error of the host agent."""

    code = "internal"


class HypervisorError(HostError):
    """A hypervisor refused or failed; the foreign error is chained."""

    code = "hypervisor"


class StopTimedOut(HypervisorError):
    """The guest was asked to shut down and did not; it is still running."""

    code = "timeout"


class Unsupported(HypervisorError):
    """The driver cannot do this at all."""

    code = "unsupported"


class IllegalVerb(HostError):
    """The verb is not allowed in the state that the VM is in."""

    code = "illegal_state"


class ImageError(HostError):
    """An image cannot be used."""

    code = "image"


class ConfigError(HostError):
    """A setting is wrong."""

    code = "bad_request"
