"""A Rucio server on SQLite, run by Rucio's own Python: ``rucio_server.py PORT STORAGE_PORT``, settings by RUCIO_CONFIG.

It makes the database, an account with a scope, and two places for files, and serves until it is killed.
"""

import sys

from rucio.common.types import InternalAccount, InternalScope
from rucio.core.account import add_account
from rucio.core.identity import add_account_identity, add_identity
from rucio.core.rse import add_protocol, add_rse
from rucio.core.scope import add_scope
from rucio.db.sqla.constants import AccountType, IdentityType
from rucio.db.sqla.session import transactional_session
from rucio.db.sqla.util import build_database, create_base_vo, create_root_account
from werkzeug.serving import make_server

#: A place whose physical names are what they are registered as, one where Rucio makes them, and one where nobody but an
#: administrator may add a file: Rucio's generic rights go by the end of the name.
PLACES = {"VOLUNTEERS_LOCALGROUPDISK": False, "VOLUNTEERS_SCRATCHDISK": True, "VOLUNTEERS_DATADISK": False}


@transactional_session
def furnish(storage_port: int, *, session):
    """Have what an administrator of a grid would have made."""
    account = InternalAccount("volunteers")
    add_account(account, AccountType.SERVICE, "volunteers@example.org", session=session)
    add_identity("vc", IdentityType.USERPASS, "vc@example.org", password="the password", session=session)
    add_account_identity("vc", IdentityType.USERPASS, account, "vc@example.org", session=session)
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

    make_server("127.0.0.1", int(sys.argv[1]), application, threaded=True).serve_forever()


if __name__ == "__main__":
    main()
