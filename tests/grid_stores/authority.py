"""An authority of a grid for tests: certificates of hosts and people, and proxies of these."""

from __future__ import annotations

import datetime
import os
import secrets
import subprocess
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

#: Key usages in the order that X.509 has them: a signature and what keys are exchanged with; of an authority, signing.
_USUAL = (True, False, True, True, False, False, False, False, False)
_SIGNING = (False, False, False, False, False, True, True, False, False)
#: What makes a certificate a proxy: ProxyCertInfo, and in it the policy to inherit all rights.
_ACTS_FOR_ALL = x509.UnrecognizedExtension(
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"), bytes.fromhex("300c300a06082b06010505071501")
)


class Authority:
    """Vouches for whom it has made certificates: ``directory/certificates`` is what others trust it by."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.trusted = directory / "certificates"
        self.trusted.mkdir(parents=True)
        self.ca = self.trusted / "authority.pem"
        self._key = rsa.generate_private_key(65537, 2048)
        _write(self.ca, self._certificate("Authority", self._key.public_key(), _SIGNING))
        self.ca.chmod(0o444)
        subprocess.run(["openssl", "rehash", str(self.trusted)], check=True, timeout=60)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Make a certificate for ``/O=Tests/CN=NAME``; gives its file and its key's."""
        certificate, key = self._person(name)
        files = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        _write(files[0], certificate)
        _write(files[1], key)
        return files

    def proxy(self, name: str) -> Path:
        """Make a proxy (RFC 3820) by which a program acts for somebody: its certificate and key, and the person's."""
        person, person_key = self._person(name)
        key = rsa.generate_private_key(65537, 2048)
        subject = x509.Name([*person.subject, x509.NameAttribute(NameOID.COMMON_NAME, "4711")])
        usage = x509.KeyUsage(*_USUAL)
        builder = _builder(subject, person.subject, key.public_key()).add_extension(usage, critical=True)
        proxy = builder.add_extension(_ACTS_FOR_ALL, critical=True).sign(person_key, hashes.SHA256())
        file = self.directory / f"{name}-{secrets.token_hex(4)}.proxy"
        _write(file, proxy, key, person)
        return file

    def _person(self, name: str) -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
        key = rsa.generate_private_key(65537, 2048)
        return self._certificate(name, key.public_key(), _USUAL), key

    def _certificate(self, name: str, key: rsa.RSAPublicKey, usage: tuple[bool, ...]) -> x509.Certificate:
        constraints = x509.BasicConstraints(ca=usage is _SIGNING, path_length=None)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(_name(name), _name("Authority"), key)
            .add_extension(constraints, critical=True)
            .add_extension(x509.KeyUsage(*usage), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(identifier, critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


def _builder(subject: x509.Name, issuer: x509.Name, key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
    began = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    times = builder.not_valid_before(began).not_valid_after(began + datetime.timedelta(hours=10))
    return times.serial_number(x509.random_serial_number())


def _name(name: str) -> x509.Name:
    parts = ((NameOID.ORGANIZATION_NAME, "Tests"), (NameOID.COMMON_NAME, name))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])


def _write(path: Path, *parts: x509.Certificate | rsa.RSAPrivateKey) -> None:
    """Write a new file that only its owner may read: XRootD takes no other."""
    form, plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400), "wb") as file:
        for part in parts:
            if isinstance(part, x509.Certificate):
                file.write(part.public_bytes(serialization.Encoding.PEM))
            else:
                file.write(part.private_bytes(serialization.Encoding.PEM, form, plain))
