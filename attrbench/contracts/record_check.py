"""The checksum on the last line of a record's file, by which a record that was damaged or edited is told from others.

It covers the bytes before it as they are, so that checking costs little beside reading; an editor that lays the file
out anew breaks it. Records of before, which have none, are read as they are.
"""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel

_CHECKED = re.compile(rb'(?P<body>.*),\n "check": "(?P<check>[0-9a-f]{64})"\n\}\n', re.DOTALL)


def file_content(record: BaseModel) -> bytes:
    """Return the content of a record's file: the record as indented JSON, with the checksum on the last line."""
    body = record.model_dump_json(indent=1, exclude={"check"}).removesuffix("\n}").encode()
    return body + f',\n "check": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


def is_as_written(content: bytes) -> bool:
    """Return whether a record's file that holds a checksum is as `file_content` made it."""
    match = _CHECKED.fullmatch(content)
    return match is not None and hashlib.sha256(match["body"]).hexdigest().encode() == match["check"]
