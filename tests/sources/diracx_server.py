"""A real DiracX on loopback, with moto as its S3: a program for the virtual environment of deploy/peers/diracx.sh.

It is given a directory, which it fills, and two ports; it makes a grid of one VO with groups for users, pilots and
operators, and serves until it is killed or whoever started it is gone. Started again with the same directory it is the
same grid; the sandboxes, which are in memory, are gone. Nothing of the project is imported here.
"""

from __future__ import annotations

import base64
import ctypes
import hashlib
import json
import os
import signal
import sys
from pathlib import Path

VO = "voluntary"
GROUPS = {"user": ["NormalUser"], "pilots": ["GenericPilot"], "operators": ["NormalUser", "JobAdministrator"]}
USERS = ("alice", "bob", "pilot", "operator")
#: What classic DIRAC exchanges for tokens of any user: how the test logs people in, with no identity provider.
LEGACY_KEY = b"a key of this test alone"


def settings(directory: Path, port: int, s3_port: int) -> dict[str, str]:
    """Give what the server is told by its environment."""
    from cryptography.fernet import Fernet
    from diracx.core.extensions import DiracEntryPoint, select_from_extension
    from joserfc.jwk import KeySet, OKPKey

    key = OKPKey.generate_key(parameters={"key_ops": ["sign", "verify"], "alg": "Ed25519", "kid": "test"})
    keys = json.dumps(KeySet([key]).as_dict(private=True))
    (directory / "keys.json").write_text(keys)
    databases = {
        f"DIRACX_DB_URL_{point.name.upper()}": f"sqlite+aiosqlite:///{directory}/{point.name}.db"
        for point in select_from_extension(group=DiracEntryPoint.SQL_DB)
    }
    parameters = {
        f"DIRACX_OS_DB_{point.name.upper()}": json.dumps(
            {"sqlalchemy_dsn": f"sqlite+aiosqlite:///{directory}/{point.name}-os.db"}
        )
        for point in select_from_extension(group=DiracEntryPoint.OS_DB)
    }
    s3 = {
        "endpoint_url": f"http://127.0.0.1:{s3_port}",
        "aws_access_key_id": "testing",
        "aws_secret_access_key": "testing",
    }
    return {
        **databases,
        **parameters,
        "DIRACX_CONFIG_BACKEND_URL": f"git+file://{directory}/cs",
        "DIRACX_SERVICE_AUTH_TOKEN_ISSUER": f"http://127.0.0.1:{port}",
        "DIRACX_SERVICE_AUTH_ALLOWED_REDIRECTS": "[]",
        "DIRACX_SERVICE_AUTH_TOKEN_KEYSTORE": keys,
        "DIRACX_SERVICE_AUTH_STATE_KEY": Fernet.generate_key().decode(),
        "DIRACX_SANDBOX_STORE_BUCKET_NAME": "sandboxes",
        "DIRACX_SANDBOX_STORE_AUTO_CREATE_BUCKET": "true",
        "DIRACX_SANDBOX_STORE_S3_CLIENT_KWARGS": json.dumps(s3),
        "DIRACX_LEGACY_EXCHANGE_HASHED_API_KEY": hashlib.sha256(LEGACY_KEY).hexdigest(),
        "DIRACX_TASKS_REDIS_URL": "",
    }


def make_grid(directory: Path) -> None:
    """Write the configuration: a VO, its groups, their users."""
    from diracx.cli.internal.config import add_group, add_user, add_vo, generate_cs

    where = f"git+file://{directory}/cs"
    generate_cs(where)
    add_vo(where, vo=VO, default_group="user", idp_url="https://idp.invalid", idp_client_id="test")
    for group, properties in GROUPS.items():
        if group != "user":
            add_group(where, vo=VO, group=group, properties=properties)
    for user in USERS:
        groups = [{"pilot": "pilots", "operator": "operators"}.get(user, "user")]
        add_user(where, vo=VO, groups=groups, sub=f"sub-of-{user}", preferred_username=user)


def main(directory: Path, port: int, s3_port: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    from moto.server import ThreadedMotoServer

    ThreadedMotoServer(ip_address="127.0.0.1", port=s3_port, verbose=False).start()
    os.environ |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
    os.environ |= {"GIT_COMMITTER_EMAIL": "t@t", "HOME": str(directory), "OTEL_SDK_DISABLED": "true"}
    kept = directory / "settings.json"
    if not kept.exists():
        make_grid(directory)
        kept.write_text(json.dumps(settings(directory, port, s3_port)))
    os.environ |= json.loads(kept.read_bytes())
    import uvicorn

    uvicorn.run("diracx.testing.routers:create_app", factory=True, host="127.0.0.1", port=port, log_level="warning")


def legacy_token() -> str:
    """Give the bearer token with which tokens of a user are asked for."""
    return "diracx:legacy:" + base64.urlsafe_b64encode(LEGACY_KEY).decode()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
