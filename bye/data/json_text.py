"""JSON files as they stand: the text of each entry, what is between them, and the values, read in pieces."""

import codecs
import json
import re
from dataclasses import dataclass

from bye.errors import ByeError
from bye.files import ConstantError, place_of_constant, refuse_constant

PIECE = 2**20  # bytes read at a time
SPACE = re.compile(r"[ \t\n\r]*")


@dataclass(frozen=True)
class Broken:
    """Stands for a line of JSON lines that is no valid JSON; text: what is wrong with it."""

    text: str


class Text:
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


def list_parts(text):
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


def member_parts(text, keys):
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
            yield from member_parts(text, keys[1:])
        else:
            yield from list_parts(text)
        mark = text.expect(",}")


def value_parts(text):
    while text.next():
        before = text.take()
        value = text.value()
        yield before, text.take(), value


def line_parts(path):
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
