"""What stops an image from being built; the message says what to do next."""

from __future__ import annotations


class BuildError(Exception):
    """A tool is missing or failed, or an input cannot be used. Nothing was written to the output."""
