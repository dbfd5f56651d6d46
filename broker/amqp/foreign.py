"""How pika is told where to connect, and what its errors are in our words. Nothing of pika's leaks past this."""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence

import pika
from pika import exceptions as foreign

from broker.address import Address
from broker.amqp.stream import SpeaksTls
from broker.errors import BrokerError, Crowded, Disconnected, Forbidden, LoginRefused, QueueGone, Untrusted
from broker.tls import context_of, explain, name_at
from schemas.endpoints import Endpoint, Tls

#: How long a TCP connection and the AMQP handshake may take, seconds.
CONNECT_TIMEOUT_S = 10.0
#: The same where there are other endpoints to try.
NEXT_TIMEOUT_S = 2.0

#: What pika raises when it is called on a connection or a channel that is closing.
GONE = (foreign.AMQPConnectionError, foreign.AMQPChannelError)
#: What a broker says when a vhost is not there or not ours, and what it adds when that will pass by itself.
VHOST_REFUSED = re.compile(r"vhost .*not found|access to vhost .*refused")
PASSING = re.compile(r"limit \(|is down")
LIMIT_REACHED = re.compile(r"limit \(\d+\) is reached|reached the maximum allowed user limit")


def parameters(address: Address, endpoint: Endpoint, name: str, heartbeat_s: int) -> pika.ConnectionParameters:
    """Give what pika is told of one endpoint."""
    timeout_s = CONNECT_TIMEOUT_S if len(address.endpoints) == 1 else NEXT_TIMEOUT_S
    return pika.ConnectionParameters(
        host=endpoint.host,
        port=endpoint.port,
        ssl_options=_ssl_options(address.tls, endpoint),
        virtual_host=address.vhost,
        credentials=pika.PlainCredentials(address.user, address.password),
        heartbeat=heartbeat_s,
        socket_timeout=timeout_s,
        stack_timeout=timeout_s,
        blocked_connection_timeout=300,
        client_properties={"connection_name": name},
    )


def _ssl_options(tls: Tls | None, endpoint: Endpoint) -> pika.SSLOptions | None:
    return pika.SSLOptions(context_of(tls), name_at(tls, endpoint)) if tls else None


def most_telling(errors: Sequence[tuple[Endpoint, BrokerError]]) -> BrokerError:
    """Give the word of one that answered before that of one that did not; of several what each of them said."""
    _, telling = max(errors, key=lambda pair: not isinstance(pair[1], Disconnected))
    if len(errors) == 1 and not isinstance(telling, Untrusted):
        return telling
    return type(telling)("; ".join(f"{endpoint}: {error}" for endpoint, error in errors))


def to_ours(error: BaseException, tls: Tls | None = None) -> BrokerError:
    """The one place where pika's errors become ours."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        return Untrusted(explain(error, tls))
    if isinstance(error, SpeaksTls):
        return Untrusted("it speaks TLS on that port: the credential needs a tls part, or another port")
    text = (error.strerror if isinstance(error, OSError) else "") or str(error) or type(error).__name__
    if _is_login_refused(error):
        return LoginRefused(f"the broker refused the login: {text}")
    code = getattr(error, "reply_code", 0)
    if code == 530 and LIMIT_REACHED.search(getattr(error, "reply_text", "")):
        return Crowded(error.reply_text)  # type: ignore[attr-defined]
    if code == 404:
        return QueueGone(getattr(error, "reply_text", text))
    if code in (403, 405):
        return Forbidden(getattr(error, "reply_text", text))
    return Disconnected(text)


def cause_of(error: BaseException) -> BaseException:
    """Dig out what the operating system said: of a connect that failed pika tells the names of its wrappings only."""
    wrapped = [getattr(error, "exception", None), *getattr(error, "exceptions", ()), *error.args]
    inner = next((one for one in reversed(wrapped) if isinstance(one, BaseException)), None)
    return error if isinstance(error, OSError) or inner is None else cause_of(inner)


def _is_login_refused(error: BaseException) -> bool:
    """Say whether the broker itself said so: a lost stream, a shutdown or a limit is no word on the credential."""
    if not isinstance(error, foreign.ConnectionClosedByBroker):
        return isinstance(error, foreign.AuthenticationError)
    if error.reply_code == 530:
        return bool(VHOST_REFUSED.search(error.reply_text)) and not PASSING.search(error.reply_text)
    return bool(error.reply_code == 403)
