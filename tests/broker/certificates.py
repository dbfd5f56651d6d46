"""Certificates of an authority that lives for one test, as files and as the ``tls`` part of a credential."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme

from schemas.endpoints import Tls


class Authority:
    """Issues certificates into a directory."""

    def __init__(self, directory: Path) -> None:
        self._ca, self._directory = trustme.CA(), directory
        self.ca_file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca_file))
        self._issued = 0

    def tls(self, **more: str) -> Tls:
        """Trust this authority alone."""
        return Tls(ca=self.ca_file.read_text(), **more)

    def issue(self, name: str, *, days: int = 1) -> Path:
        """Give a file with the certificate of that name and its key; one of ``days`` below 0 has expired."""
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(days=days)
        made = self._ca.issue_cert(name, not_before=end - datetime.timedelta(days=10), not_after=end)
        self._issued += 1
        path = self._directory / f"{self._issued}.pem"
        made.private_key_and_cert_chain_pem.write_to_path(str(path))
        return path
