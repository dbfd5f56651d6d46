"""Parts of a daemon by kind, ours and those that others install, each with settings of its own.

An entry point of a group bears the kind's name and leads to a ``Plugin``. Their settings are a tagged union that is
open to more: the tag says which part, and only that one is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

import msgspec

from broker.errors import ConfigError
from schemas.plain_text import plain
from schemas.wanted import explain


class PluginSettings(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of every part's settings. The part's own, ``tag="KIND"``, add its fields, each with a default."""


Settings = TypeVar("Settings", bound=PluginSettings)


class Plugin(msgspec.Struct, Generic[Settings], frozen=True):
    """What an entry point leads to: a part's settings, and how it is made of them."""

    settings: type[Settings]
    #: Called with the settings, and what all parts of the group are given beside them.
    make: Callable[..., Any]


class Plugins(msgspec.Struct, frozen=True):
    """The parts of one group: ``noun`` is the word for one of them."""

    group: str
    noun: str
    #: What is raised when one cannot be imported: it is called with the words.
    broken: Callable[[str], Exception]
    #: The value of a setting that is not known is not told: it may be a secret under a misspelt name.
    has_secrets: bool = False

    def installed(self) -> dict[str, EntryPoint]:
        """Give those that there are, by kind; none is imported. Raises ConfigError for two of one name."""
        found = {(point.name, point.value): point for point in sorted(entry_points(group=self.group))}
        for name, count in Counter(name for name, _ in found).items():
            if count > 1:
                where = " and ".join(value for other, value in found if other == name)
                raise ConfigError(f"{self.noun} {name}: {count} that are installed bear this name: {where}")
        return {name: point for (name, _), point in found.items()}

    def make(self, table: Mapping[str, Any], where: str, *given: Any, beside: Sequence[str] = ()) -> Any:
        """Make the part that a table of settings names, set as it says; ``where`` is the table's place, and ``beside``
        what people may have written there that is taken out of it by now, for errors.

        Raises ConfigError that names field, value and what is allowed, and ``broken`` if it cannot be imported.
        """
        plugin = self._chosen(table, where)
        self._refuse_unknown(table, plugin.settings, where, beside)
        try:
            settings = msgspec.convert(table, plugin.settings)
        except msgspec.ValidationError as error:
            raise ConfigError(f"{where}.{explain(str(error), plugin.settings, table)}") from error
        return plugin.make(settings, *given)

    def _chosen(self, table: Mapping[str, Any], where: str) -> Plugin[Any]:
        found, kind = self.installed(), table.get("kind")
        if not isinstance(kind, str) or kind not in found:
            said = f" = {_quoted(kind)}" if "kind" in table else " is missing"
            near = get_close_matches(kind, found, n=1) if isinstance(kind, str) else []
            advice = f"did you mean {near[0]!r}? " if near else ""
            names = ", ".join(found)
            raise ConfigError(f"{where}.kind{said}: {advice}must be a {self.noun} that is installed: {names}")
        try:
            plugin: Plugin[Any] = found[kind].load()
        except Exception as error:  # whatever the import of somebody else's module raises
            raise self.broken(f"the {self.noun} {kind} cannot be imported: {type(error).__name__}: {error}") from error
        return plugin

    def _refuse_unknown(
        self, table: Mapping[str, Any], settings: type[PluginSettings], where: str, beside: Sequence[str]
    ) -> None:
        own = [field.encode_name for field in msgspec.structs.fields(settings)]
        known = ["kind", *own, *(key for key in beside if key not in own)]
        for key in table:
            if key not in known:
                near = get_close_matches(key, known, n=1)
                advice = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
                said = f"{where}.{plain(key)}" + ("" if self.has_secrets else f" = {_quoted(table[key])}")
                raise ConfigError(f"{said}: the {self.noun} {table['kind']} has no such setting: {advice}")


def _quoted(value: Any) -> str:
    return plain(repr(value))
