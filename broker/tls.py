"""TLS to a broker: our authorities alone count, and what is wrong with the other end is said in a sentence."""

from __future__ import annotations

import socket
import ssl

from broker.errors import Untrusted
from schemas.endpoints import Endpoint, Tls

#: OpenSSL's words for what a certificate can lack, by X509_V_ERR number, and what to do.
_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})
#: How long a broker may take to say what it thinks of our certificate, seconds.
ALERT_S = 1.5
#: What the other end says of a certificate of ours, and what to do.
_OF_OURS = {
    "UNKNOWN_CA": "it is of an authority that the broker does not have: get one of the broker's",
    "CERTIFICATE_EXPIRED": "it has expired: renew it",
    "CERTIFICATE_REVOKED": "it was revoked: get another",
    "BAD_CERTIFICATE": "it is damaged, or not what the broker checks for: its log says more",
    "UNSUPPORTED_CERTIFICATE": "it is not for clients, or of a kind that the broker cannot read: get another",
    "CERTIFICATE_UNKNOWN": "the broker's log says why",
    "ACCESS_DENIED": "the broker's log says why",
}


def context_of(tls: Tls) -> ssl.SSLContext:
    """Make the context of a client. Raises Untrusted naming the part that cannot be used."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=tls.ca)
    except (ssl.SSLError, ValueError) as error:
        raise Untrusted(f"tls.ca: no PEM text of certificates: {error}") from error
    if tls.certificate:
        try:
            context.load_cert_chain(tls.certificate)
        except (ssl.SSLError, OSError) as error:
            raise Untrusted(f"tls.certificate = {tls.certificate!r}: no certificate with its key: {error}") from error
    return context


def name_at(tls: Tls, endpoint: Endpoint) -> str:
    """Say which name a certificate must bear."""
    return tls.name or endpoint.host


def explain(error: ssl.SSLError, tls: Tls | None) -> str:
    """Say in a sentence why the other end is not trusted, or does not trust us."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _of_certificate(error, tls)
    if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"):
        return "it does not speak TLS on that port: take the port of its TLS listener"
    alert = (error.reason or "").partition("_ALERT_")[2]
    has_shown_one = tls is not None and bool(tls.certificate)
    if alert == "CERTIFICATE_REQUIRED" or (alert == "HANDSHAKE_FAILURE" and not has_shown_one):
        return "it wants a certificate of ours: name one in tls.certificate"
    if alert in _OF_OURS and has_shown_one:
        return f"it refuses the certificate that tls.certificate names: {_OF_OURS[alert]}"
    return f"TLS fails: {error.reason or error}"


def why_ended(endpoint: Endpoint, tls: Tls | None, ending: BaseException) -> str:
    """Say in a sentence why a connection with TLS has ended.

    In TLS 1.3 a broker judges our certificate when it has let us in: its alert is lost where we have begun to speak.
    So it is asked again, by one who says nothing. Raises nothing; takes a few seconds at most.
    """
    if isinstance(ending, ssl.SSLError) and not isinstance(ending, ssl.SSLEOFError):
        return explain(ending, tls)
    return (tls is not None and _alert_of(endpoint, tls)) or str(ending)


def _alert_of(endpoint: Endpoint, tls: Tls) -> str:
    try:
        with socket.create_connection((endpoint.host, endpoint.port), ALERT_S) as plain:
            plain.settimeout(ALERT_S)
            with context_of(tls).wrap_socket(plain, server_hostname=name_at(tls, endpoint)) as link:
                link.recv(1)
    except ssl.SSLError as error:
        return "" if isinstance(error, ssl.SSLEOFError) else explain(error, tls)
    except OSError:
        pass
    return ""


def _of_certificate(error: ssl.SSLCertVerificationError, tls: Tls | None) -> str:
    if error.verify_code == _EXPIRED:
        return "its certificate has expired: renew it there"
    if error.verify_code == _NOT_YET:
        return "its certificate is not valid yet: look at both clocks"
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        wanted = f"tls.name = {tls.name!r}" if tls and tls.name else "the name of the endpoint"
        return f"its certificate is another name's, not {wanted}: set tls.name to the name that it bears"
    if error.verify_code in _UNKNOWN_AUTHORITY:
        return "its certificate is of an authority that tls.ca does not have: it is another broker, or tls.ca is old"
    return f"its certificate is refused: {error.verify_message}"
