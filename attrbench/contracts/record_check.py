"""The checksum on the last line of a record's file, by which a record that was damaged or edited is told from others.

It covers the bytes before it as they are, so that checking costs little beside reading; an editor that lays the file
out anew breaks it. Records of before, which have none, are read as they are.
"""

from __future__ import annotations

import hashlib

from pydantic import BaseModel

_LINE = ',\n "check": "{}"\n}}\n'
_LENGTH = len(_LINE.format(64 * "0"))


def file_content(record: BaseModel) -> bytes:
    """Return the content of a record's file: the record as indented JSON, with the checksum on the last line."""
    body = record.model_dump_json(indent=1, exclude={"check"}).removesuffix("\n}").encode()
    return body + _last_line(body)


def _last_line(body: bytes | memoryview) -> bytes:
    return _LINE.format(hashlib.sha256(body).hexdigest()).encode()


def is_as_written(content: bytes) -> bool:
    """Return whether a record's file that holds a checksum is as `file_content` made it."""
    return content[-_LENGTH:] == _last_line(memoryview(content)[:-_LENGTH])


def without_rankings(content: bytes) -> bytes:
    """Return a record's file with an empty list for its rankings, nine tenths of it, which boards do not look at.

    Text in JSON holds no line break, so that these lines are the rankings. A file laid out otherwise is left as it is.
    """
    start = content.find(b'\n "ranking": [\n')
    end = content.find(b"\n ],\n", start)
    if start < 0 or end < 0:
        return content
    return content[:start] + b'\n "ranking": [],\n' + content[end + len(b"\n ],\n") :]
