"""Read JSON and write files so that nothing half-written is ever taken for a result.

Every writer fills a hidden temporary name beside the target, flushes it to disk and renames it in one step. The
temporary name is the same each time, so that what a killed run left behind is overwritten by the next one.
"""

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
from pathlib import Path

from bye.errors import ByeError, first

WRITE_PROBLEMS = {
    errno.ENOSPC: "the disk is full; free some space and run again",
    errno.EDQUOT: "the disk quota is used up; free some space and run again",
    errno.EFBIG: "the file is larger than this system allows; raise the file size limit and run again",
    errno.EROFS: "the file system is read-only; choose another output folder",
    errno.EACCES: "permission denied; choose another output folder or change its permissions",
    errno.EPERM: "operation not permitted; choose another output folder or change its permissions",
    errno.ENOTDIR: "a part of the path is a file; choose another output path",
    errno.EEXIST: "a part of the path is a file; choose another output path",
    errno.EISDIR: "there is a folder of that name; choose another output path",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter output path",
}

CONSTANT = re.compile(r'"(?:[^"\\]|\\.)*"|(NaN|-?Infinity)')  # a string, which is passed over, or a constant
SHOWN = 5  # wrong numbers of a table that are told
FULL = 2**14  # bytes: a disk with less free is taken to be why a write failed


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary path beside `path` for the body to write; it becomes `path` when the body ends.

    The temporary name keeps the suffix, since some libraries choose the format by it. If the body fails, it is removed
    and whatever stood at `path` before stays. Raises ByeError for a read-only place, a full disk and their like.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    with _explained(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            _flush(partial)
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def replacing_folder(path, flush=True):
    """Yield an empty temporary folder beside `path`; it takes the place of `path` when the body ends.

    A folder that stood there before is moved aside first and deleted last. `flush=False` leaves it to the system when
    the files reach the disk: for thousands of files that a later stage checks anyway. Raises ByeError as `replacing`
    does.
    """
    path = Path(path)
    partial, previous = (path.with_name(f".{path.name}.{what}") for what in ("partial", "previous"))
    with _explained(path, partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in (partial, previous):
            if leftover.exists():
                shutil.rmtree(leftover)
        try:
            partial.mkdir()
            with filling(partial, path):
                yield partial
            for folder, _, names in os.walk(partial) if flush else ():
                for name in names:
                    _flush(os.path.join(folder, name))
            if path.exists():
                os.rename(path, previous)
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(previous, ignore_errors=True)


@contextlib.contextmanager
def filling(folder, name=None):
    """Explain a full disk where a library fails to write files into `folder`; `name` is what the error calls it.

    torch and safetensors tell a full disk in words of their own or not at all, so the disk is asked. Raises ByeError.
    """
    try:
        yield
    except (ByeError, MemoryError):
        raise
    except Exception as error:
        code = getattr(error, "errno", None)
        full = shutil.disk_usage(folder).free < FULL if code is None else code in (errno.ENOSPC, errno.EDQUOT)
        if not full:
            raise
        raise ByeError(f"cannot write {name or folder}: {WRITE_PROBLEMS[code or errno.ENOSPC]}") from error


def write_bytes(path, data):
    """Write bytes to `path` in one step."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path, text):
    """Write `text` to `path` as UTF-8, lines ended as they are in `text`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path, value):
    """Write `value` as indented JSON. Not-a-number is no JSON: put None (null) where a figure is undefined."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_csv(path, rows, columns):
    """Write `rows` (dicts) as CSV with the given column names; a missing or None value is an empty field."""
    lines = []
    for row in [{name: name for name in columns}, *rows]:
        line = io.StringIO()
        # A field with a part of what ends a line is quoted: with this ending, one with a carriage return alone too.
        csv.DictWriter(line, columns, lineterminator="\r\n").writerow(row)
        lines.append(line.getvalue().removesuffix("\r\n") + "\n")
    write_text(path, "".join(lines))


def write_parquet(path, table):
    """Write a pyarrow table to `path`; the same table gives the same bytes."""
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    write_bytes(path, buffer.getvalue())


def read_text(path):
    """Return the text of a UTF-8 file, a byte order mark dropped. Raises ByeError if it cannot be read as such."""
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ByeError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise ByeError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise ByeError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def read_csv(path, delimiter=",", columns=()):
    """Return the rows of a CSV file as dicts of texts; an empty file has none.

    Raises ByeError if it cannot be read, or lacks some columns.
    """
    rows = csv.DictReader(io.StringIO(read_text(path)), delimiter=delimiter)
    missing = [column for column in columns if column not in (rows.fieldnames or columns)]
    if missing:
        raise ByeError(f"{path} has no column {', '.join(missing)}; give one that has, or make it anew")
    return list(rows)


def read_table(path, texts=(), numbers=(), gaps=()):
    """Return the rows of a CSV file that is drawn, dicts of texts with these columns; gaps: of numbers that may be left
    out.

    Raises ByeError where it has no rows, or for all columns that it lacks, or for all numbers that are none.
    """
    rows = read_csv(path, columns=(*texts, *numbers, *gaps))
    if not rows:
        raise ByeError(f"{path} has no rows to draw; make its cells first")
    wrong = [
        f"{column} of row {number} is {row[column]!r}"
        for number, row in enumerate(rows, start=1)
        for column in (*numbers, *gaps)
        if not (_is_number(row[column]) or (column in gaps and not row[column]))
    ]
    if wrong:
        raise ByeError(f"{path}: {', '.join(first(wrong, SHOWN))}, which is no number; make the table anew")
    return rows


def _is_number(text):
    try:
        float(text)
    except (TypeError, ValueError):  # None where the row is short
        return False
    return True


def read_json(path):
    """Return the content of a JSON file. Raises ByeError naming the line where it is not valid JSON."""
    return parse_json(read_text(path), path)


def parse_json(text, path, line=None):
    """Return the value of JSON `text` that came from `path`, or from one `line` of it (1 is the first).

    Raises ByeError that says where it is not valid. NaN and Infinity, which Python would take, are not.
    """
    try:
        return json.loads(text, parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {line or error.lineno}, column {error.colno}"
        raise ByeError(f"{path} is not valid JSON at {place}: {error.msg}; mend the file there") from None
    except (ValueError, RecursionError) as error:
        place = f" at line {line}" if line else ""
        where = ""
        if isinstance(error, ConstantError):
            before = text[: place_of_constant(text)]
            number, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            where = f" (column {column})" if line else f" (line {number}, column {column})"
        raise ByeError(f"{path} is not valid JSON{place}: {error}{where}; mend the file there") from None


class ConstantError(ValueError):
    """Of NaN or Infinity, which Python's reader takes for numbers."""


def refuse_constant(name):
    """Raise ConstantError: the `parse_constant` of a reader that takes JSON alone."""
    raise ConstantError(f"{name} is not a JSON value")


def place_of_constant(text):
    """Return where the first constant outside of a string stands, which is the one that was refused."""
    return next(found.start(1) for found in CONSTANT.finditer(text) if found[1])


def _flush(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(path, partial):
    """Turn an OSError from writing `path` into a ByeError; one that names some other file passes as it is."""
    try:
        yield
    except OSError as error:
        place = path if error.filename is None else Path(os.fsdecode(error.filename))
        ours = place == path or place in path.parents or place.is_relative_to(partial)
        if not ours or error.errno not in WRITE_PROBLEMS:
            raise
        raise ByeError(f"cannot write {path}: {WRITE_PROBLEMS[error.errno]}") from error


def count_numbers(folder):
    """Return how many numbers the safetensors files of a folder hold, of which none is read; None without such files.

    Raises ByeError for one that cannot be read.
    """
    from math import prod

    from safetensors import SafetensorError, safe_open

    paths = sorted(Path(folder).glob("*.safetensors"))
    try:
        opened = [safe_open(path, "np") for path in paths]
    except (OSError, SafetensorError) as error:
        raise ByeError(f"{folder} has weights that cannot be read ({error}); run its stage again") from None
    numbers = [prod(file.get_slice(name).get_shape()) for file in opened for name in file.keys()]  # noqa: SIM118
    return sum(numbers) if paths else None
