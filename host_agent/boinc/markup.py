"""Tags of a job file, as BOINC reads them: not quite XML, as people do not write it.

BOINC's reader stops at the end of the first root, knows no entities but five and numbers, takes a bare ``&``, and minds
neither attributes nor what stands between tags. This one does the same, in one pass and within bounds. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from msgspec import Struct

from host_agent.errors import JobFileError

#: A job file that is longer is none, bytes; the longest that were seen have 20 KiB.
MOST_BYTES = 256 << 10
#: Tags within tags; tags in all, with whatever else begins as one.
MOST_DEEP, MOST_TAGS = 16, 8_000

_TAG = re.compile(r"<(?P<end>/?)(?P<name>[A-Za-z_][\w.:-]*)(?:\s[^<>]*?)?(?P<empty>/?)>")
#: What is passed over, by how it begins and ends.
_ASIDE = (("<!--", "-->"), ("<?", "?>"), ("<!", ">"))
_LITERAL, _LITERAL_END = "<![CDATA[", "]]>"
_CHARACTER = re.compile(r"&(lt|gt|amp|quot|apos|#\d{1,7}|#[xX][0-9a-fA-F]{1,6});")
_NAMED = {"lt": "<", "gt": ">", "amp": "&", "quot": '"', "apos": "'"}
_BYTE_ORDER = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Tag(Struct, frozen=True):
    """A tag with the text directly in it, without blanks around it, and the tags in it. Lines count from 1."""

    name: str
    line: int
    text: str = ""
    tags: tuple[Tag, ...] = ()
    #: How it ends: ``<x/>``.
    is_empty: bool = False


class _Open(Struct):
    name: str
    line: int
    texts: list[str]
    tags: list[Tag]

    def closed(self) -> Tag:
        return Tag(self.name, self.line, "".join(self.texts).strip(), tuple(self.tags))


def read_root(body: bytes, roots: Collection[str]) -> Tag:
    """Read the first root, which is one of ``roots``; what follows it is not looked at. Raises JobFileError."""
    text = _text(body)
    lines = _Lines(text)
    opened: list[_Open] = []
    for before, token in _tokens(text, lines):
        if opened:
            opened[-1].texts.append(before)
        if token is None:
            continue
        line, name, is_end = lines.at(token.start()), token["name"], bool(token["end"])
        if not opened:
            _demand_root(name, is_end, roots, line)
        done = _take(opened, name, line, is_end=is_end, is_empty=bool(token["empty"]))
        if done is not None:
            return done
    if opened:
        last = opened[-1]
        raise JobFileError(last.line, last.name, f"is not ended by </{last.name}>; the file is cut off")
    raise JobFileError(1, "", f"there is no {_or(roots)}; is this a job file?")


def root_of(body: bytes) -> str:
    """Name the first tag; empty where there is none that can be read."""
    try:
        text = _text(body)
        return next((token["name"] for _, token in _tokens(text, _Lines(text)) if token is not None), "")
    except JobFileError:
        return ""


def _take(opened: list[_Open], name: str, line: int, *, is_end: bool, is_empty: bool) -> Tag | None:
    """Let a tag begin or end; give the root once it has ended."""
    if is_end:
        return _close(opened, name, line)
    if is_empty and not opened:
        return Tag(name, line, is_empty=True)
    if is_empty:
        opened[-1].tags.append(Tag(name, line, is_empty=True))
    elif len(opened) >= MOST_DEEP:
        raise JobFileError(line, name, f"more than {MOST_DEEP} tags within each other")
    else:
        opened.append(_Open(name, line, [], []))
    return None


def _close(opened: list[_Open], name: str, line: int) -> Tag | None:
    """End the innermost tag; give it if it is the root."""
    if opened[-1].name != name:
        begun = opened[-1]
        raise JobFileError(line, name, f"</{name}> ends what is not open; <{begun.name}> of line {begun.line} is")
    done = opened.pop().closed()
    if not opened:
        return done
    opened[-1].tags.append(done)
    return None


def _demand_root(name: str, is_end: bool, roots: Collection[str], line: int) -> None:
    if is_end or name not in roots:
        raise JobFileError(line, name, f"a job file begins with {_or(roots)}")


def _tokens(text: str, lines: _Lines) -> Iterator[tuple[str, re.Match[str] | None]]:
    """Give text, and the tag after it, or None where there is more text; what is passed over is left out."""
    at = count = 0
    while (begin := text.find("<", at)) >= 0:
        count += 1
        if count > MOST_TAGS:
            raise JobFileError(lines.at(begin), "", f"more than {MOST_TAGS} tags")
        before = _unescaped(text[at:begin])
        if text.startswith(_LITERAL, begin):
            end = _end(text, begin, _LITERAL_END, lines)
            yield before + text[begin + len(_LITERAL) : end - len(_LITERAL_END)], None
        elif (tag := _TAG.match(text, begin)) is not None:
            end = tag.end()
            yield before, tag
        elif (close := next((close for mark, close in _ASIDE if text.startswith(mark, begin)), None)) is not None:
            end = _end(text, begin, close, lines)
            yield before, None
        else:
            end = begin + 1
            yield before + "<", None
        at = end


def _end(text: str, begin: int, close: str, lines: _Lines) -> int:
    found = text.find(close, begin)
    if found < 0:
        raise JobFileError(lines.at(begin), "", f"{text[begin : begin + 9]!r} is not ended by {close!r}")
    return found + len(close)


def _text(body: bytes) -> str:
    if len(body) > MOST_BYTES:
        raise JobFileError(1, "", f"{len(body)} bytes; a job file has at most {MOST_BYTES}")
    for mark, encoding in _BYTE_ORDER.items():
        if body.startswith(mark):
            return _decoded(body, encoding)
    if b"\0" in body:
        raise JobFileError(body[: body.index(b"\0")].count(b"\n") + 1, "", "a NUL: this is no text")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        return body.decode("latin-1")


def _decoded(body: bytes, encoding: str) -> str:
    try:
        text = body.decode(encoding)
    except UnicodeDecodeError as error:
        raise JobFileError(1, "", f"it begins as {encoding} and is none: {error.reason}") from None
    if "\0" in text:
        raise JobFileError(text[: text.index("\0")].count("\n") + 1, "", "a NUL: this is no text")
    return text


def _unescaped(text: str) -> str:
    return _CHARACTER.sub(_character, text)


def _character(found: re.Match[str]) -> str:
    word = found[1]
    if word in _NAMED:
        return _NAMED[word]
    number = int(word[2:], 16) if word[1] in "xX" else int(word[1:])
    is_text = number in (9, 10, 13) or 32 <= number < 0xD800 or 0xE000 <= number < 0x110000
    return chr(number) if is_text else found[0]


def _or(roots: Collection[str]) -> str:
    return " or ".join(f"<{root}>" for root in roots)


class _Lines:
    """Says on which line an offset is, of offsets that ascend."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._line = text, 0, 1

    def at(self, offset: int) -> int:
        self._line += self._text.count("\n", self._at, offset)
        self._at = offset
        return self._line
