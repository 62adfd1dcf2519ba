"""A file of entries as it stands: a JSON list, JSON lines, a JSON object around the list, or Parquet.

It is read entry by entry, in pieces, and copied without some of its entries: what is left is byte for byte what it was.
"""

import codecs
import itertools
import json
import re
from dataclasses import dataclass

from bye.errors import ByeError, cut
from bye.files import ConstantError, place_of_constant, refuse_constant, replacing

PIECE = 2**20  # bytes read at a time
SHORT = 80  # characters of a value that an error shows
PARQUET = b"PAR1"  # how such a file begins
SPACE = re.compile(r"[ \t\n\r]*")
LOOKED_AT = 20  # lines that tell JSON lines whose first is broken
# One of these keys tells an entry from an object around entries; of the others, what is in its lists does.
TURN_KEYS = {"conversations", "messages", "query", "response"}
ENTRY_KEYS = TURN_KEYS | {"image", "images", "id"}


@dataclass(frozen=True)
class Broken:
    """Stands for a line of JSON lines that is no valid JSON; text: what is wrong with it."""

    text: str


class EntryFile:
    """The entries of a file, in order: iterate over it for their values. Raises ByeError for a file that has none.

    form: "list", "lines" (JSON lines), "values" (JSON objects one after another), "object" (around the list) or
    "parquet". Of JSON lines, an invalid line is a Broken entry; in another form, invalid JSON ends the reading.
    """

    def __init__(self, path):
        self.path, self.keys = path, ()
        try:
            with open(path, "rb") as file:
                self.form = "parquet" if file.read(len(PARQUET)) == PARQUET else None
        except FileNotFoundError:
            raise ByeError(f"{path} does not exist; check the path") from None
        except OSError as error:
            raise ByeError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
        if self.form is None:
            self.form = self._json_form()

    @property
    def suffix(self):
        """The ending of a file of this form."""
        return {"lines": ".jsonl", "values": ".jsonl", "parquet": ".parquet"}.get(self.form, ".json")

    def __iter__(self):
        if self.form == "parquet":
            yield from _rows(self.path)
            return
        for _, raw, value in self._parts():
            if raw is not None:
                yield value

    def copy(self, out, wanted):
        """Write a file of the same form with the entries for whose place (from 0) `wanted` is true."""
        with replacing(out) as partial:
            if self.form == "parquet":
                _copy_parquet(self.path, partial, wanted)
                return
            with open(partial, "wb") as file:
                for text in self._kept(wanted):
                    file.write(text.encode())

    def _kept(self, wanted):
        """Yield the text of a copy piece by piece: what stood before the first entry stands before the first kept."""
        lead, written = "", False
        for place, (before, raw, _) in enumerate(self._parts()):
            if place == 0:
                lead = before
            if raw is None:
                # Of "[ 1, 2 ]" without its entries "[ " and " ]" are left; of lines nothing is.
                if written or self.form not in ("lines", "values"):
                    yield before if written or place == 0 else lead + before
            elif wanted[place]:
                yield (before if written else lead) + raw
                written = True

    def _parts(self):
        """Yield (text before an entry, text of the entry, value) and at the end (the text behind, None, None)."""
        if self.form == "lines":
            yield from _lines(self.path)
            return
        with _Text(self.path) as text:
            if self.form == "list":
                yield from _list(text)
            elif self.form == "object":
                yield from _members(text, self.keys)
            else:
                yield from _values(text)
            if text.next():
                raise text.error("there is more behind its end")
            yield text.take(), None, None

    def _json_form(self):
        with _Text(self.path) as text:
            start = text.next()
            if start == "[":
                return "list"
            if start == "":
                raise ByeError(f"{self.path} is empty; give a file with at least one sample")
            line = text.line_ahead()
            over_lines = line.endswith(("{", "[", ","))  # as no JSON line ends, but the first of an indented object
            try:
                value = json.loads(line) if start == "{" and not over_lines else None
            except (ValueError, RecursionError):
                value = None
            if value is None:
                if _has_lines_behind(self.path):
                    return "lines"  # of which the first is broken
                if start != "{":
                    raise ByeError(
                        f"{self.path} is neither JSON nor Parquet; give a JSON list of samples, JSON lines (a sample a "
                        "line), or Parquet with a sample a row"
                    )
                value, over_lines = text.value(), True
            else:
                text.at += len(line)
            lists = [] if text.next() else _lists_in(value, self.path)
        if lists:
            self.keys = self._meant(lists)
            return "object"
        return "values" if over_lines else "lines"

    def _meant(self, lists):
        """The keys of the one list that an object is around."""
        full = [keys for keys, size in lists if size] or [lists[0][0]]
        if len(full) > 1:
            found = " and ".join(f"one of {size} under the key {_key(keys)}" for keys, size in lists[:3] if size)
            raise ByeError(
                f"{self.path} is a JSON object around several lists of samples: {found}; write the one that is meant "
                "as a file of its own"
            )
        return full[0]


def _key(keys):
    return cut(repr(".".join(keys)), SHORT)


def _lists_in(value, path):
    """Return [(keys that lead there, length), ...] of the lists of entries in an object that is no entry itself.

    They are looked for in the object and in those in it, the longest is the first. Lists without anything that has an
    entry's keys count where there are no others and the object has none either. Raises ByeError where the entries are
    under keys of their own.
    """
    if TURN_KEYS & set(value):
        return []
    parts = {key: part for key, part in value.items() if isinstance(part, dict)}
    if parts and all(TURN_KEYS & set(part) for part in parts.values()):
        raise ByeError(
            f"{path} is a JSON object with a sample under each key; write its {len(parts)} samples as a list"
        )
    inside = {(key, name): each for key, part in parts.items() for name, each in part.items()}
    lists = {**{(key,): each for key, each in value.items()}, **inside}
    lists = {keys: each for keys, each in lists.items() if isinstance(each, list)}
    of_entries = {keys: each for keys, each in lists.items() if any(map(_is_entry, each))}
    if not of_entries and not ENTRY_KEYS & set(value):
        of_entries = {keys: each for keys, each in lists.items() if all(isinstance(part, dict) for part in each)}
    return sorted(((keys, len(each)) for keys, each in of_entries.items()), key=lambda item: -item[1])


def _is_entry(value):
    return isinstance(value, dict) and bool(ENTRY_KEYS & set(value))


def _has_lines_behind(path):
    """Whether one of the lines after the first, up to LOOKED_AT of them, is a JSON object."""
    with open(path, "rb") as file:
        lines = [line for line in itertools.islice(file, LOOKED_AT) if line.strip()][1:]
    for line in lines:
        try:
            if isinstance(json.loads(line), dict):
                return True
        except (ValueError, RecursionError):
            continue
    return False


# ---- JSON ------------------------------------------------------------------------------------------------------------


class _Text:
    """The text of a UTF-8 file, read in pieces.

    at: where reading stands in the piece in hand. What lies between the last `take` and there is never let go.
    """

    def __init__(self, path):
        self.path = path
        self.file = open(path, "rb")  # noqa: SIM115
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.json = json.JSONDecoder(parse_constant=refuse_constant)
        self.text, self.at, self.taken, self.ended = "", 0, 0, False
        self.line, self.column, self.bytes = 1, 1, 0  # of the first character in hand; bytes read
        self._read(PIECE)
        if self.text.startswith("\ufeff"):
            self.at = 1

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()

    def _read(self, size):
        piece = self.file.read(size)
        try:
            more = self.decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            place = self.bytes - (len(error.object) - len(piece)) + error.start  # some bytes had been held back
            raise ByeError(f"{self.path} is not UTF-8 text (byte {place}); save it as UTF-8") from None
        self.bytes += len(piece)
        self.ended = not piece
        self._let_go()
        self.text += more

    def _let_go(self):
        gone = self.text[: self.taken]
        self.line += gone.count("\n")
        newline = gone.rfind("\n")
        self.column = self.column + len(gone) if newline < 0 else len(gone) - newline
        self.text, self.at, self.taken = self.text[self.taken :], self.at - self.taken, 0

    def next(self):
        """Pass over blanks and return the character there, or "" at the end."""
        while True:
            self.at = SPACE.match(self.text, self.at).end()
            if self.at < len(self.text):
                return self.text[self.at]
            if self.ended:
                return ""
            self._read(PIECE)

    def line_ahead(self):
        """The text from here to the end of the line, its last blanks left out."""
        end = self.text.find("\n", self.at)
        size = PIECE
        while end < 0 and not self.ended:
            self._read(size)
            size *= 2
            end = self.text.find("\n", self.at)
        return self.text[self.at : end if end >= 0 else None].rstrip()

    def value(self):
        """Decode the JSON value that begins here."""
        size = PIECE
        while True:
            try:
                value, end = self.json.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self.ended:
                    raise self.error(error.msg, error.pos) from None
            except ConstantError as error:
                raise self.error(str(error), self.at + place_of_constant(self.text[self.at :])) from None
            except (ValueError, RecursionError) as error:
                raise self.error(str(error)) from None
            else:
                if end < len(self.text) or self.ended:  # a number may go on
                    self.at = end
                    return value
            self._read(size)
            size *= 2

    def expect(self, characters):
        """Pass over blanks and one of the characters, which is returned."""
        found = self.next()
        if not found or found not in characters:
            raise self.error(f"Expecting {' or '.join(map(repr, characters))}")
        self.at += 1
        return found

    def take(self):
        """Return the text since the last time."""
        taken, self.taken = self.text[self.taken : self.at], self.at
        return taken

    def error(self, message, place=None):
        before = self.text[: self.at if place is None else place]
        line = self.line + before.count("\n")
        newline = before.rfind("\n")
        column = self.column + len(before) if newline < 0 else len(before) - newline
        return ByeError(
            f"{self.path} is not valid JSON at line {line}, column {column}: {message}; mend the file there"
        )


def _list(text):
    text.expect("[")
    while text.next() != "]":
        before = text.take()
        value = text.value()
        yield before, text.take(), value
        if text.next() != "]":
            text.expect(",")
            if text.next() == "]":
                raise text.error("Expecting an entry behind the comma")
    text.at += 1


def _members(text, keys):
    """Yield the parts of the list under keys[0] of an object, or under keys[1] of the object there."""
    text.expect("{")
    mark = "," if text.next() != "}" else text.expect("}")
    while mark == ",":
        text.next()
        key = text.value()
        text.expect(":")
        text.next()
        if key != keys[0]:
            text.value()
        elif keys[1:]:
            yield from _members(text, keys[1:])
        else:
            yield from _list(text)
        mark = text.expect(",}")


def _values(text):
    while text.next():
        before = text.take()
        value = text.value()
        yield before, text.take(), value


def _lines(path):
    """The parts of JSON lines. Only \\n ends a line: strings may hold the other characters that end lines elsewhere."""
    before = ""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                place = file.tell() - len(line) + error.start
                raise ByeError(f"{path} is not UTF-8 text (byte {place}); save it as UTF-8") from None
            start = 1 if number == 1 and text.startswith("\ufeff") else 0
            raw = text[start:].strip()
            if not raw:
                before += text
                continue
            start = text.index(raw)
            yield before + text[:start], raw, _line_value(raw, number, start)
            before = text[start + len(raw) :]
    yield before, None, None


def _line_value(raw, number, start):
    try:
        return json.loads(raw, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        message, column = error.msg, error.colno
    except ConstantError as error:
        message, column = str(error), place_of_constant(raw) + 1
    except (ValueError, RecursionError) as error:
        message, column = str(error), 1
    return Broken(f"it is not valid JSON at line {number}, column {start + column}: {message}; mend the line")


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def _batches(path):
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if not file.schema_arrow.names:
                raise ByeError(f"{path} is Parquet without columns; give a file with samples")
            yield from file.iter_batches(batch_size=1024)
    except (OSError, pyarrow.ArrowException) as error:
        raise ByeError(f"{path} cannot be read as Parquet ({error}); give a whole file") from None


def _rows(path):
    for batch in _batches(path):
        try:
            rows = batch.to_pylist()
        except (ValueError, OverflowError) as error:  # of times, and of texts that are none
            raise ByeError(f"{path} has values that Python cannot hold ({error}); mend or drop that column") from None
        yield from rows


def _copy_parquet(path, out, wanted):
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        schema, groups = file.schema_arrow, file.metadata.num_row_groups
        codec = file.metadata.row_group(0).column(0).compression if groups else "SNAPPY"
    place = 0
    with pyarrow.parquet.ParquetWriter(out, schema, compression="none" if codec == "UNCOMPRESSED" else codec) as writer:
        for batch in _batches(path):
            chosen = pyarrow.array(wanted[place : place + len(batch)], pyarrow.bool_())
            place += len(batch)
            writer.write_batch(batch.filter(chosen))
