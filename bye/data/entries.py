"""A file of entries as it stands: a JSON list, JSON lines, a JSON object around the list, or Parquet.

It is read entry by entry, in pieces, and copied without some of its entries: what is left is byte for byte what it was.
"""

import itertools
import json

from bye.data.json_text import Text, line_parts, list_parts, member_parts, value_parts
from bye.data.parquet import copy_rows, rows_of
from bye.errors import ByeError, cut
from bye.files import replacing

SHORT = 80  # characters of a value that an error shows
PARQUET = b"PAR1"  # how such a file begins
LOOKED_AT = 20  # lines that tell JSON lines whose first is broken
# One of these keys tells an entry from an object around entries; of the others, what is in its lists does.
TURN_KEYS = {"conversations", "messages", "query", "response"}
ENTRY_KEYS = TURN_KEYS | {"image", "images", "id"}


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
            yield from rows_of(self.path)
            return
        for _, raw, value in self._parts():
            if raw is not None:
                yield value

    def copy(self, out, wanted):
        """Write a file of the same form with the entries for whose place (from 0) `wanted` is true."""
        with replacing(out) as partial:
            if self.form == "parquet":
                copy_rows(self.path, partial, wanted)
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
            yield from line_parts(self.path)
            return
        with Text(self.path) as text:
            if self.form == "list":
                yield from list_parts(text)
            elif self.form == "object":
                yield from member_parts(text, self.keys)
            else:
                yield from value_parts(text)
            if text.next():
                raise text.error("there is more behind its end")
            yield text.take(), None, None

    def _json_form(self):
        with Text(self.path) as text:
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
