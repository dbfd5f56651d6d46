"""Who gets which credential: the key manager's decisions, one message of a principal at a time.

A VM belongs to the host that first asked for it. Its one-time login is good for one generation; the same question gets
the same answer until the VM has confirmed, so a lost answer or a redelivery costs nothing. What is handed out is on
disk before. For several threads: they are alone with the VM or site that they decide about.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from broker.address import Address, read_address, write_address
from broker.keys.cutting import Cutting
from broker.keys.realm import Realm
from broker.keys.spares import OnceLogin, SpareLogins
from broker.keys.store import EnrolledVm, EnrolmentStore
from broker.keys.subjects import Subjects
from broker.keys.upkeep import Upkeep
from broker.minting import new_password
from broker.principals import Principal, parse_principal
from schemas.codec import op_of
from schemas.enrol import (
    Credential,
    EnrolConfirm,
    EnrolGrant,
    EnrolGranted,
    EnrolRevoke,
    EnrolTrade,
    EnrolVouch,
    KeysDelete,
    KeysList,
    KeysListed,
    KeysMint,
    PrincipalCut,
)
from schemas.envelope import Done, Failed, Message, Reply
from schemas.errors import ErrorCode
from schemas.ids import Kind, host_of, kind_of, unguessable

log = logging.getLogger(__name__)

#: Kinds that a console may delete.
_DELETABLE = (Kind.SITE, Kind.HOST, Kind.VM)
#: Principals of sites that consoles may have made together.
MOST_SITES = 1000


class Quotas(msgspec.Struct, frozen=True):
    """How many principals others may have made: a stolen host, or a console."""

    vms_of_host: int = 128
    sites: int = MOST_SITES


class Registrar:
    """See the module. Raises BrokerError where the broker fails: then ask again, nothing is half done for good."""

    def __init__(
        self, realm: Realm, store: EnrolmentStore, credentials: Path, broker: Address, quotas: Quotas | None = None
    ) -> None:
        """``credentials`` is where ``<principal>.json`` files are; ``broker`` says where they shall point."""
        self._realm, self._store, self._credentials, self._broker = realm, store, credentials, broker
        self._quotas = quotas or Quotas()
        self._subjects = Subjects()
        self.spares = SpareLogins(realm)
        self.upkeep = Upkeep(realm, store, self._subjects, self.spares)
        self._takes: dict[type[Message], tuple[Kind, Callable[[str, Any, float], Reply | None]]] = {
            EnrolGrant: (Kind.HOST, self._grant),
            EnrolTrade: (Kind.ONCE, self._trade),
            EnrolConfirm: (Kind.VM, self._confirm),
            EnrolRevoke: (Kind.HOST, self._revoke),
            EnrolVouch: (Kind.HOST, self._vouch),
            KeysMint: (Kind.CONSOLE, self._mint_site),
            KeysDelete: (Kind.CONSOLE, self._delete),
            KeysList: (Kind.CONSOLE, self._list_sites),
            PrincipalCut: (Kind.ADAPTER, self._cut),
        }
        self.cutting = Cutting(realm)

    def ensure(self, principals: Iterable[str]) -> None:
        """Make principals exist, with the passwords in their files, and new ones where there is no file."""
        for name in principals:
            self._ensure(parse_principal(name))

    def handle(self, sender: str, message: Message, now_s: float) -> Reply | None:
        """Do what a principal asks for and give the answer; None where none is due. Idempotent by (sender, message)."""
        kind, work = self._takes.get(type(message), (None, None))
        if work is None or kind_of(sender) is not kind:
            return _failed(message, ErrorCode.FORBIDDEN, f"{op_of(message)} is not taken from {sender}")
        return work(sender, message, now_s)

    def kin_of(self, sender: str) -> str:
        """Say with whom a sender shares what it may have waiting: a VM with the other VMs of its host. Never waits."""
        host = self._store.host_of(sender)
        return f"VMs of {host}" if host else sender

    def _grant(self, host: str, message: EnrolGrant, _: float) -> Reply:
        """Hand out the one-time login of a VM's generation. A newer generation locks the older one out at once."""
        problem = _not_its_own(host, message)
        if problem is not None:
            return problem
        with self._subjects.alone_with(message.vm):
            known = self._store.by_vm(message.vm)
            problem = self._over_quota(host, message) if known is None else _not_grantable(message, known)
            return problem or self._hand_out(host, message, known)

    def _over_quota(self, host: str, message: EnrolGrant) -> Failed | None:
        if len(self._store.of_host(host)) < self._quotas.vms_of_host:
            return None
        text = f"vm = {message.vm!r}: {host} has {self._quotas.vms_of_host} VMs already, the most that a host may have"
        return _failed(message, ErrorCode.FORBIDDEN, text, "delete some, or raise the key manager's vms_of_host")

    def _hand_out(self, host: str, message: EnrolGrant, known: EnrolledVm | None) -> Reply:
        is_there = False
        if known is None or known.generation != message.generation or not known.once_user:
            known, is_there = self._new_once(host, message, known)
        elif known.disowned or known.silent_s:
            self._store.put(msgspec.structs.replace(known, disowned=False, silent_s=0.0))
        if not is_there:
            self._realm.mint(parse_principal(known.once_user), known.once_password)
        log.info("one-time login", extra={"host": host, "vm": known.vm, "generation": known.generation})
        return EnrolGranted(
            call=message.id,
            vm=known.vm,
            generation=known.generation,
            user=known.once_user,
            password=known.once_password,
        )

    def _new_once(self, host: str, message: EnrolGrant, known: EnrolledVm | None) -> tuple[EnrolledVm, bool]:
        """Note that the VM has a one-time login, and say whether it is there: one that was made ahead is."""
        if known is not None and known.once_user:
            self.upkeep.drop_once(known)
        spare = self.spares.take()
        user, password = spare or OnceLogin(unguessable(Kind.ONCE), new_password())
        record = EnrolledVm(
            vm=message.vm, host=host, generation=message.generation, once_user=user, once_password=password
        )
        try:
            self._store.put(record)
        finally:
            self.spares.noted(user)  # where it was not, it is nobody's, and swept
        return record, spare is not None

    def _trade(self, once: str, message: EnrolTrade, _: float) -> Reply:
        """Make the VM's own login, or give the one made before. What connected with an earlier one is dropped."""
        found = self._store.by_once(once)
        if found is None:
            return _failed(message, ErrorCode.NOT_FOUND, f"{once} has been used or is too old", "ask the host anew")
        with self._subjects.alone_with(found.vm):
            known = self._store.by_once(once)
            if known is None or message.generation != known.generation:
                return _stale(message, known or found)
            with self.cutting.staying_out(Principal(Kind.VM, known.vm)):
                return self._make_login(message, known)

    def _make_login(self, message: EnrolTrade, known: EnrolledVm) -> Reply:
        vm = Principal(Kind.VM, known.vm)
        if not known.password:
            self._realm.lock_out(vm)
            known = msgspec.structs.replace(known, password=new_password())
            self._store.put(known)
        self._realm.mint(vm, known.password)
        log.info("credential traded", extra={"vm": known.vm, "generation": known.generation})
        return Credential(call=message.id, generation=known.generation, user=known.vm, password=known.password)

    def _confirm(self, vm: str, message: EnrolConfirm, _: float) -> None:
        """The VM is in with its own credential: the one-time login and our copy of the password go."""
        with self._subjects.alone_with(vm):
            known = self._store.by_vm(vm)
            if known is None or not known.password or message.generation not in (0, known.generation):
                return
            self.upkeep.drop_once(known)
            log.info("credential confirmed", extra={"vm": vm, "generation": known.generation})

    def _revoke(self, host: str, message: EnrolRevoke, _: float) -> Reply:
        problem = _not_its_own(host, message)
        if problem is not None:
            return problem
        self.upkeep.delete(message.vm, lambda _: True)
        return Done(call=message.id)

    def _vouch(self, host: str, message: EnrolVouch, _: float) -> None:
        """Note which VMs a host has, and which of its VMs it has no more."""
        named, aside = (self._its_own(host, some) for some in (message.vms, message.aside))
        self.upkeep.vouch(host, named, aside)

    def _its_own(self, host: str, vms: Iterable[str]) -> frozenset[str]:
        """Leave out the VMs of others. One that it was given before a VM's name said whose it is stays its own."""
        known = {record.vm for record in self._store.of_host(host)}
        return frozenset(vm for vm in vms if host_of(vm) == host or vm in known)

    def _mint_site(self, console: str, message: KeysMint, _: float) -> Reply:
        site = Principal(Kind.SITE, f"site-{message.site}")
        with self._subjects.alone_with(site.name):
            if not self._file_of(site).exists() and len(self._realm.named(Kind.SITE)) >= self._quotas.sites:
                text = f"site = {message.site!r}: there are {self._quotas.sites} sites, the most that may be"
                return _failed(message, ErrorCode.FORBIDDEN, text, "delete some with `volcloud site delete`")
            address = self._ensure(site)
        log.info("site minted", extra={"console": console, "site": address.user})
        return Credential(call=message.id, user=address.user, password=address.password)

    def _list_sites(self, console: str, message: KeysList, _: float) -> Reply:
        return KeysListed(call=message.id, sites=sorted(site.name for site in self._realm.named(Kind.SITE)))

    def _delete(self, console: str, message: KeysDelete, _: float) -> Reply:
        """Delete a principal; with a host go its VMs, since nobody else may ask for them."""
        try:
            principal = parse_principal(message.principal)
        except ValueError as error:
            return _failed(message, ErrorCode.BAD_REQUEST, str(error))
        if principal.kind not in _DELETABLE:
            kinds = ", ".join(_DELETABLE)
            return _failed(message, ErrorCode.FORBIDDEN, f"principal = {principal.name!r}: only {kinds} may be deleted")
        for vm in [*(record.vm for record in self._store.of_host(principal.name)), principal.name]:
            self.upkeep.delete(vm, lambda _: True)
        with self._subjects.alone_with(principal.name):
            self._realm.unmint(principal)
            self._file_of(principal).unlink(missing_ok=True)
        log.info("principal deleted", extra={"console": console, "principal": principal.name})
        return Done(call=message.id)

    def _cut(self, adapter: str, message: PrincipalCut, _: float) -> None:
        self.cutting.cut_off(parse_principal(message.principal), message.reason, adapter)

    def _ensure(self, principal: Principal) -> Address:
        """The file comes last: whoever waits for it can log in."""
        path = self._file_of(principal)
        password = read_address(path).password if path.exists() else new_password()
        address = msgspec.structs.replace(self._broker, user=principal.name, password=password)
        with self.cutting.staying_out(principal):
            self._realm.mint(principal, password)
        write_address(path, address)
        return address

    def _file_of(self, principal: Principal) -> Path:
        return self._credentials / f"{principal.name}.json"


def _not_its_own(host: str, message: EnrolGrant | EnrolRevoke) -> Failed | None:
    """A VM's name says whose it is: of another's nothing is said, not even whether it exists."""
    try:
        kind = parse_principal(message.vm).kind
    except ValueError as error:
        return _failed(message, ErrorCode.BAD_REQUEST, f"vm: {error}")
    if kind is not Kind.VM:
        return _failed(message, ErrorCode.BAD_REQUEST, f"vm = {message.vm!r}: must be vm-<id>")
    if host_of(message.vm) == host:
        return None
    form = f"vm-{host.removeprefix('host-')}-<10 of 0 to 9 and a to f>"
    text = f"vm = {message.vm!r} is not a VM of {host}: those are {form}"
    return _failed(message, ErrorCode.FORBIDDEN, text, "delete it with `volcloud vm delete`, and create it again")


def _not_grantable(message: EnrolGrant, known: EnrolledVm) -> Failed | None:
    return _stale(message, known) if message.generation < known.generation else None


def _stale(message: Message, known: EnrolledVm) -> Failed:
    text = f"generation = {message.generation}: {known.vm} is at {known.generation}"
    return _failed(message, ErrorCode.STALE_GENERATION, text, "start the VM again, or give it the newest seed")


def _failed(message: Message, code: ErrorCode, text: str, hint: str = "") -> Failed:
    return Failed(call=message.id, code=code, message=text, hint=hint)
