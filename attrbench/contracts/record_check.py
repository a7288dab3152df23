"""The checksum on the last line of a record's file, by which a record that was damaged or edited is told from others.

It covers the bytes before it as they are, so that checking costs little beside reading; an editor that lays the file
out anew breaks it. Records of before, which have none, or a line for each number, are read as they are.
"""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel

_LINE = ',\n "check": "{}"\n}}\n'
_LENGTH = len(_LINE.format(64 * "0"))
_RANKINGS = b'\n "ranking": [\n'
_NUMBERS = re.compile(rb"\[\n([^][{}\"]+)\n *\]")
"""An array without strings or other arrays in it, on several lines; no string has a bare line break."""


def file_content(record: BaseModel) -> bytes:
    """Return the content of a record's file: the record as indented JSON, with the checksum on the last line.

    An array of numbers, such as a query's ranking, has one line.
    """
    body = record.model_dump_json(indent=1, exclude={"check"}).removesuffix("\n}").encode()
    body = _NUMBERS.sub(lambda found: b"[" + b" ".join(found[1].split()) + b"]", body)
    return body + _last_line(body)


def _last_line(body: bytes | memoryview) -> bytes:
    return _LINE.format(hashlib.sha256(body).hexdigest()).encode()


def checked_content(content: bytes, rankings: bool) -> bytes:
    """Return a record's file without its checksum where it is as `file_content` made it; else with it.

    Args:
        content: of the file.
        rankings: whether its rankings are kept.
    """
    whole = content[-_LENGTH:] == _last_line(memoryview(content)[:-_LENGTH])
    kept = content if rankings else without_rankings(content)
    return b"".join((memoryview(kept)[:-_LENGTH], b"\n}")) if whole else kept


def without_rankings(content: bytes) -> bytes:
    """Return a record's file with an empty list for its rankings, nine tenths of it, which boards do not look at.

    Rankings are numbers, so that the next quotation mark begins the next key. A file laid out otherwise stays as it is.
    """
    start = content.find(_RANKINGS)
    end = content.find(b'"', start + len(_RANKINGS))
    if start < 0 or end < 0 or not content.endswith(b"\n ],\n ", start, end):
        return content
    return b"".join((content[:start], b'\n "ranking": [],\n ', content[end:]))
