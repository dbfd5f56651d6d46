"""A Rucio server on SQLite, run by Rucio's own Python: ``rucio_server.py PORT STORAGE_PORT CERTIFICATE KEY AUTHORITY``.

It makes the database that RUCIO_CONFIG names, an account with a scope, and places for files, and serves by TLS until it
is killed. Whoever shows a certificate is who that says, as a web server in front of Rucio would tell it.
"""

import ssl
import sys

from rucio.common.types import InternalAccount, InternalScope
from rucio.core.account import add_account
from rucio.core.identity import add_account_identity, add_identity
from rucio.core.rse import add_protocol, add_rse
from rucio.core.scope import add_scope
from rucio.db.sqla.constants import AccountType, IdentityType
from rucio.db.sqla.session import transactional_session
from rucio.db.sqla.util import build_database, create_base_vo, create_root_account
from werkzeug.serving import WSGIRequestHandler, make_server

#: A place whose physical names are what they are registered as, one where Rucio makes them, and one where nobody but an
#: administrator may add a file: Rucio's generic rights go by the end of the name.
PLACES = {"VOLUNTEERS_LOCALGROUPDISK": False, "VOLUNTEERS_SCRATCHDISK": True, "VOLUNTEERS_DATADISK": False}


#: How parts of a subject are called for short.
SHORT = {"organizationName": "O", "commonName": "CN"}


class Handler(WSGIRequestHandler):
    """Tells Rucio who has logged in by a certificate."""

    def make_environ(self):
        environ = super().make_environ()
        subject = (self.connection.getpeercert() or {}).get("subject", ())
        environ["SSL_CLIENT_S_DN"] = "".join(f"/{SHORT[kind]}={value}" for part in subject for kind, value in part)
        return environ


def tls(certificate: str, key: str, authority: str) -> ssl.SSLContext:
    """Have a certificate, and believe those of an authority and the proxies that are made of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_ALLOW_PROXY_CERTS
    return context


@transactional_session
def furnish(storage_port: int, *, session):
    """Have what an administrator of a grid would have made."""
    account = InternalAccount("volunteers")
    add_account(account, AccountType.SERVICE, "volunteers@example.org", session=session)
    add_identity("vc", IdentityType.USERPASS, "vc@example.org", password="the password", session=session)
    add_account_identity("vc", IdentityType.USERPASS, account, "vc@example.org", session=session)
    add_identity("/O=Tests/CN=volunteer", IdentityType.X509, "vc@example.org", session=session)
    add_account_identity("/O=Tests/CN=volunteer", IdentityType.X509, account, "vc@example.org", session=session)
    add_scope(InternalScope("volunteers"), account, session=session)
    add_scope(InternalScope("others"), InternalAccount("root"), session=session)
    for name, is_deterministic in PLACES.items():
        rse = add_rse(name, deterministic=is_deterministic, session=session)
        add_protocol(rse, protocol(storage_port), session=session)


def protocol(port: int) -> dict[str, object]:
    everything = {"read": 1, "write": 1, "delete": 1}
    return {
        "scheme": "root",
        "hostname": "localhost",
        "port": port,
        "prefix": "//grid/volunteers/",
        "impl": "rucio.rse.protocols.xrootd.Default",
        "domains": {"lan": everything, "wan": {**everything, "third_party_copy_read": 1, "third_party_copy_write": 1}},
    }


def main() -> None:
    build_database()
    create_base_vo()
    create_root_account()
    furnish(int(sys.argv[2]))
    from rucio.web.rest.flaskapi.v1.main import application

    where = {"host": "127.0.0.1", "port": int(sys.argv[1]), "ssl_context": tls(*sys.argv[3:])}
    make_server(**where, app=application, threaded=True, request_handler=Handler).serve_forever()


if __name__ == "__main__":
    main()
