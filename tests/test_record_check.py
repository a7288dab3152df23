"""A record's file that was changed after it was written is found, whatever byte it is."""

import hashlib
import random

import pytest

from attrbench.contracts.record import parse_record, read_file, read_records, write_record
from tests.reports.test_leaderboard import noisy, record


def test_a_record_is_read_as_it_was_written(tmp_path):
    one = record("a", noisy(0.5))
    write_record(one, tmp_path)
    assert read_records(tmp_path) == ([one], [])


def test_no_flipped_bit_of_a_record_goes_unnoticed(tmp_path):
    one, chance = record("a", noisy(0.5)), random.Random(0)
    path = write_record(one, tmp_path)
    whole = path.read_bytes()
    for place in [*chance.sample(range(len(whole)), 200), *range(len(whole) - 90, len(whole))]:
        data = bytearray(whole)
        data[place] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        records, problems = read_records(tmp_path)
        assert records in ([], [one])
        assert records or problems or b'"schema_version"' not in data


def test_an_edited_number_is_named_and_the_record_is_not_ranked(tmp_path):
    path = write_record(record("a", noisy(0.5)), tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"train_items": 10', b'"train_items": 11'))
    records, (problem,) = read_records(tmp_path)
    assert not records
    assert str(path) in problem and "changed after it was written" in problem


def test_a_record_of_before_without_a_checksum_is_read(tmp_path):
    one = record("a", noisy(0.5))
    (tmp_path / "old.json").write_text(one.model_dump_json(indent=1, exclude={"check"}))
    assert read_records(tmp_path) == ([one], [])


def test_without_its_rankings_a_record_is_read_as_with_them_but_for_these(tmp_path):
    one = record("a", noisy(0.5)).model_copy(update={"ranking": [[3, 1], [2, 0]], "notes": ['a "ranking": [ note']})
    path = write_record(one, tmp_path)
    assert read_file(path, rankings=False) == one.model_copy(update={"ranking": []})
    words = path.read_bytes().replace(b"[3,", b'["3",')
    with pytest.raises(ValueError, match="changed after it was written"):
        parse_record(words, rankings=False)


def test_numbers_of_a_list_share_a_line_and_text_that_looks_like_a_list_stays(tmp_path):
    notes = ["[\n 1,\n 2\n]", "a [1]"]
    one = record("a", noisy(0.5)).model_copy(update={"ranking": [[3, 1], []], "notes": notes})
    path = write_record(one, tmp_path)
    assert read_file(path) == one
    lines = path.read_text().splitlines()
    assert "  [3, 1]," in lines and max(len(line) for line in lines) > 80


def test_a_record_with_a_line_for_each_number_is_read_and_its_checksum_holds(tmp_path):
    one = record("a", noisy(0.5)).model_copy(update={"ranking": [[3, 1]]})
    body = one.model_dump_json(indent=1, exclude={"check"}).removesuffix("\n}")
    check = hashlib.sha256(body.encode()).hexdigest()
    (tmp_path / "old.json").write_text(f'{body},\n "check": "{check}"\n}}\n')
    assert read_file(tmp_path / "old.json") == one == read_records(tmp_path)[0][0]
    assert read_file(tmp_path / "old.json", rankings=False).ranking == []
