"""What can go wrong at the centre, named after what the caller can do about it.

AdapterError
├── LedgerError              the ledger did not do it; nothing of that transaction happened
│   ├── LedgerUnavailable    the database is down, full, or the outcome of a commit is unknown: do the same again later
│   │   └── Contended        others held the rows or the lock for too long: do the same again
│   ├── Conflict             a rule of the tables forbids it: a fault of the program, look at the chained error
│   ├── NotFound             no such job: mend the name
│   ├── SourceInUse          a source has an adapter, or something is left of it: see to that first
│   ├── Ambiguous            the name fits jobs of several owners: name the owner
│   └── AlreadyTold          its source knows how that job has ended: submit it there again
├── StoreError               the store is full, away, or refusing: the sender keeps the file and tries again
│   ├── NotStored            there is no such file in the store
│   └── NoStagingRoom        others on their way have the room that it needs: it passes, who waits spends no patience
├── SourceError              a grid did not do what it was asked
│   ├── SourceUnavailable    it is away, slow, or makes no sense: the same again later
│   │   └── SourceDenied     it refuses us, by our rights or address: the same again, and a person looks at the words
│   └── SourceRefused        it will never have it so: a person looks at the words
│       ├── SandboxTooLarge  what a job has left is more than its grid takes: it has failed there
│       ├── JdlError         a description is not to be read, or asks for what cannot be: its line and key
│       └── PandaJobError    a record of PanDA is not to be read, or asks for what cannot be: its field
├── GridStoreError           a grid's store did not do it; nothing under the file's name was changed
│   ├── GridStoreUnavailable it is away, slow, or makes no sense: the same again later
│   │   └── GridStoreFull    it has no room, or our quota is used up: again later, and a person may free some
│   ├── GridStoreRefused     read-only, credentials, a name, a setting: a person looks at the words
│   ├── NotInGridStore       there is no such file in it: put it there
│   └── CopyDiffers          what it has is not what was sent: send it again
├── CatalogueError           a catalogue did not do what it was asked; what it was asked may have been done
│   ├── CatalogueUnavailable it is away, slow, or makes no sense: the same again later
│   └── CatalogueRefused     credentials, rights, a setting: a person looks at the words
└── TooLarge                 more than may be stored: the job has failed, or the person names another file

SQLAlchemy's and the drivers' errors are mapped in ``adapters.ledger.connections`` and nowhere else, fsspec's
in ``adapters.storage.store``, XRootD's in ``adapters.grid_stores.xrootd_status``, those of HTTP in
``adapters.catalogues.rucio_session``.
"""

from __future__ import annotations

from schemas.errors import ErrorCode
from schemas.plain_text import plain

SEE_NAMES = "`volcloud job list` shows the names"


class AdapterError(Exception):
    """Base of every error of the centre."""

    code = ErrorCode.INTERNAL
    #: The next step of a person who asked for what was not done; of one error it may be its own.
    hint = "look into the adapter's log"


class LedgerError(AdapterError):
    """The ledger did not do it."""

    def __init__(self, message: str, hint: str = "") -> None:
        """``hint`` is this one's next step, where it has its own."""
        super().__init__(message)
        self.hint = hint or self.hint


class LedgerUnavailable(LedgerError):
    """The database cannot be used now; every function of the ledger may be called again with the same message."""

    hint = "do the same again in a while; `volcloud status` tells how the centre is"


class Contended(LedgerUnavailable):
    """The database was busy with others for longer than we wait."""


class Conflict(LedgerError):
    """A constraint refused a row."""

    code = ErrorCode.CONFLICT


class NotFound(LedgerError):
    """The ledger has no such job."""

    code = ErrorCode.NOT_FOUND
    hint = SEE_NAMES


class Ambiguous(LedgerError):
    """Several owners have a submission of that id."""

    code = ErrorCode.CONFLICT
    hint = SEE_NAMES


class SourceInUse(LedgerError):
    """A source that is to be forgotten has an adapter, or something of it is left."""

    code = ErrorCode.ILLEGAL_STATE


class AlreadyTold(LedgerError):
    """A job's source has been told how it has ended, or is being told: it does not run again under that name."""

    code = ErrorCode.ILLEGAL_STATE


class StoreError(AdapterError):
    """The store did not do it; nothing under the file's name was changed."""

    code = ErrorCode.STORE


class NotStored(StoreError):
    """The store has no such file."""

    code = ErrorCode.NOT_FOUND


class NoStagingRoom(StoreError):
    """A file has no room beside others on their way; no byte of it was taken, and it has room when those are there."""

    code = ErrorCode.NO_ROOM


class SourceError(AdapterError):
    """A grid did not do it."""


class SourceUnavailable(SourceError):
    """The grid is away, slow, or answered what makes no sense; what it was asked may have been done."""


class SourceDenied(SourceUnavailable):
    """The grid refuses us, and not what was asked: our rights, our address or our settings are not right. A person has
    to look; it is no fault of any job's, and the same is asked again."""


class SourceRefused(SourceError):
    """The grid has understood, and refuses for good."""


class SandboxTooLarge(SourceRefused):
    """What a job has left is more than its grid takes as its sandbox."""


class JdlError(SourceRefused):
    """A job's description cannot be read, or asks for what is not to be had; ``line`` 0 = of no line."""

    def __init__(self, line: int, field: str, reason: str) -> None:
        """``field`` is the key, empty where it is of none."""
        where = [*([f"line {line}"] if line else []), *([plain(field[:80])] if field else [])]
        super().__init__(f"{', '.join(where)}: {reason}" if where else reason)
        self.line, self.field, self.reason = line, field, reason


class PandaJobError(SourceRefused):
    """A job's record cannot be read, or asks for what is not to be had."""

    def __init__(self, field: str, reason: str) -> None:
        """``field`` is PanDA's name of it, empty where it is of none."""
        super().__init__(f"{plain(field[:80])}: {reason}" if field else reason)
        self.field, self.reason = field, reason


class GridStoreError(AdapterError):
    """A grid's store did not do it: nothing under the file's name was changed. The words hold the store's URL."""

    code = ErrorCode.STORE


class GridStoreUnavailable(GridStoreError):
    """The store is away, slow, or answered what makes no sense; the same again later."""


class GridStoreFull(GridStoreUnavailable):
    """The store has no room for it, or for us; it may have some later, and a person may make some."""

    code = ErrorCode.NO_ROOM


class GridStoreRefused(GridStoreError):
    """The store cannot be written to by us: it is read-only, does not accept our credentials, or is not set right."""


class NotInGridStore(GridStoreError):
    """The store has no such file."""

    code = ErrorCode.NOT_FOUND


class CopyDiffers(GridStoreError):
    """What the store has of a file is not what was sent: it is sent again."""


class CatalogueError(AdapterError):
    """A catalogue did not do it, as far as is known. The words hold its URL, and never what we log in with."""


class CatalogueUnavailable(CatalogueError):
    """The catalogue is away, slow, or answered what makes no sense; the same again later."""


class CatalogueRefused(CatalogueError):
    """The catalogue does not accept our credentials, or has no such place as the settings name."""


class TooLarge(AdapterError):
    """The file is over what may be stored; no byte of it was taken."""

    code = ErrorCode.TOO_LARGE
