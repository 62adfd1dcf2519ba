"""Files of entries: every container is read, and a copy without some of its entries has the bytes of the others."""

import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from bye.data import json_text
from bye.data.check import check_entries
from bye.data.entries import EntryFile
from bye.errors import ByeError

RNG = random.Random(0)
ENTRIES = [
    {"id": number, "text": "é😀\u2028\n\x85" * (number % 5), "conversations": [{"from": "human", "value": "What?"}]}
    for number in range(40)
]


def joined(separator, **options):
    return separator.join(json.dumps(entry, **options) for entry in ENTRIES)


FORMS = {
    "a list": ("list", json.dumps(ENTRIES)),
    "a list, indented": ("list", json.dumps(ENTRIES, indent=1, ensure_ascii=False) + "\n"),
    "a list as an editor left it": ("list", "\ufeff [ " + joined(" ,\r\n\t") + " ] \n"),
    "lines": ("lines", joined("\n", ensure_ascii=False) + "\n"),
    "lines as an editor left them": ("lines", "\ufeff\n" + joined("\r\n\r\n ")),
    "objects one after another": ("values", joined("\n", indent=2)),
    "an object around the list": ("object", json.dumps({"v": 1, "data": ENTRIES, "z": {"q": [1]}}, indent=2)),
    "two objects around the list": ("object", json.dumps({"v": {"n": [], "train": ENTRIES, "m": {}}, "k": [1, 2]})),
}


@pytest.mark.parametrize("piece", [7, 2**20])
@pytest.mark.parametrize("name", FORMS)
def test_a_copy_has_the_bytes_of_what_it_keeps(tmp_path, monkeypatch, name, piece):
    monkeypatch.setattr(json_text, "PIECE", piece)
    form, text = FORMS[name]
    path, out = tmp_path / "mine.json", tmp_path / "out.json"
    path.write_bytes(text.encode())
    file = EntryFile(path)
    assert file.form == form and list(file) == ENTRIES
    file.copy(out, [True] * len(ENTRIES))
    assert out.read_bytes() == path.read_bytes()
    for share in (0.0, 0.1, 0.5, 0.9):
        wanted = [RNG.random() < share for _ in ENTRIES]
        file.copy(out, wanted)
        kept = [entry for entry, want in zip(ENTRIES, wanted, strict=True) if want]
        if kept or form not in ("lines", "values"):
            assert list(EntryFile(out)) == kept
        else:
            assert out.read_bytes() == b""
        raw = out.read_bytes().decode()
        for entry, want in zip(ENTRIES, wanted, strict=True):
            for written in (json.dumps(entry), json.dumps(entry, ensure_ascii=False)):
                assert written not in text or (written in raw) == want


def test_nothing_between_and_around_the_entries_is_lost(tmp_path):
    path, out = tmp_path / "mine.json", tmp_path / "out.json"
    path.write_text('{"v": 1.0, "data": [\n  {"a": 1e2},\n\t{"a": 2},  {"b":\n3}\n ], "more": [ ]}\n')
    EntryFile(path).copy(out, [False, True, True])
    assert out.read_text() == '{"v": 1.0, "data": [\n  {"a": 2},  {"b":\n3}\n ], "more": [ ]}\n'
    EntryFile(path).copy(out, [True, False, True])
    assert out.read_text() == '{"v": 1.0, "data": [\n  {"a": 1e2},  {"b":\n3}\n ], "more": [ ]}\n'


def test_parquet(tmp_path):
    path, out = tmp_path / "mine", tmp_path / "out.parquet"  # by its first bytes, whatever it is called
    table = pyarrow.Table.from_pylist(ENTRIES).replace_schema_metadata({"own": "metadata"})
    pyarrow.parquet.write_table(table, path, row_group_size=16, compression="gzip")
    file = EntryFile(path)
    assert file.form == "parquet" and list(file) == ENTRIES
    file.copy(out, [number % 3 == 0 for number in range(len(ENTRIES))])
    copy = pyarrow.parquet.read_table(out)
    schema = pyarrow.parquet.read_table(path).schema
    assert copy.to_pylist() == ENTRIES[::3] and copy.schema.equals(schema, check_metadata=True)
    assert pyarrow.parquet.ParquetFile(out).metadata.row_group(0).column(0).compression == "GZIP"


def test_parquet_columns_that_are_no_json_and_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "odd.parquet"
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "This."}]
    times = pyarrow.array([0, 1], pyarrow.timestamp("s"))
    columns = {"image": ["x.png"] * 2, "conversations": [turns] * 2, "at": times, "score": [float("nan"), 1.0]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    samples = check_entries(EntryFile(path)).samples
    assert [sorted(sample) for sample in samples] == [
        ["conversations", "id", "image"],
        ["conversations", "id", "image", "score"],
    ]
    far = pyarrow.array([10**9], pyarrow.int32()).cast(pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"day": far}), path)
    with pytest.raises(ByeError, match="odd.parquet has values that Python cannot hold"):
        list(EntryFile(path))
    pyarrow.parquet.write_table(pyarrow.table({}), path)
    with pytest.raises(ByeError, match="odd.parquet is Parquet without columns"):
        list(EntryFile(path))
    path.write_bytes(path.read_bytes()[:-4] + b"half")
    with pytest.raises(ByeError, match="cannot be read as Parquet"):
        list(EntryFile(path))


def test_the_place_of_a_byte_that_is_no_text(tmp_path):
    path = tmp_path / "mine.json"
    for text in (b'[{"a":"\xc3', b'[{"a":"' + b"x" * 2**20 + b'\xc3("}]'):
        path.write_bytes(text)
        with pytest.raises(ByeError, match=rf"is not UTF-8 text \(byte {text.index(0xC3)}\)"):
            list(EntryFile(path))
