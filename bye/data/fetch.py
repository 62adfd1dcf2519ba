"""Download the official datasets: resumed where a transfer broke off, checked, and laid out as the loaders read them.

sources.csv has one row a file: format, url, folder (where in the dataset it goes), unpack (yes for archives), size in
bytes and sha256 (empty where not published), licence.
"""

import csv
import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
import zipfile
from importlib import resources
from pathlib import Path

from bye.errors import ByeError
from bye.files import replacing_folder

ATTEMPTS = 4  # of one file, each going on where the last broke off
CHUNK = 1 << 20  # bytes
SECONDS_BETWEEN_LINES = 5
TIMEOUT = 60  # seconds without a byte
BY_HAND = {
    "flickr30k": "the images of Flickr30k are given out on request (https://shannon.cs.illinois.edu/DenotationGraph); "
    "put them into a folder flickr30k-images beside dataset_flickr30k.json, which is in "
    "https://cs.stanford.edu/people/karpathy/deepimagesent/caption_datasets.zip, and set datasets.flickr30k.root",
}


def sources(form):
    """Return the rows of sources.csv for a dataset format. Raises ByeError for one that must be fetched by hand."""
    if form in BY_HAND:
        raise ByeError(BY_HAND[form])
    with resources.files(__package__).joinpath("sources.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["format"] == form]
    if not rows:
        raise ByeError(f"there is no download of the format {form!r}; give the folder of your own download")
    return rows


def fetch_dataset(form, out, rows=None):
    """Download a dataset into the folder `out`, which appears when it is whole. Returns the number of files fetched.

    Archives wait in `<out>.download` until then, so that a broken transfer goes on by the same command. rows: of
    `sources`, for a mirror. Raises ByeError where a file cannot be had or is not what it should be.
    """
    rows = sources(form) if rows is None else rows
    waiting = Path(f"{str(out).rstrip('/')}.download")
    waiting.mkdir(parents=True, exist_ok=True)
    print(f"fetch: {form}, licence {rows[0]['licence']}", file=sys.stderr, flush=True)
    files = []
    for row in rows:
        file = waiting / row["folder"].replace("/", "_") / row["url"].rpartition("/")[2].partition("?")[0]
        fetch(row["url"], file, int(row["size"]) if row["size"] else None, row["sha256"] or None)
        files.append((row, file))
    with replacing_folder(out, flush=False) as folder:
        for row, file in files:
            target = folder / row["folder"]
            target.mkdir(parents=True, exist_ok=True)
            if row["unpack"] == "yes":
                unpack(file, target)
            else:
                shutil.copyfile(file, target / file.name)
    shutil.rmtree(waiting)
    return len(files)


def fetch(url, path, size=None, sha256=None):
    """Download `url` to `path`, going on from `<path>.part` where that is there; a whole file is left as it is.

    size: bytes; sha256: hexadecimal. Raises ByeError for an address without the file, a connection that keeps breaking,
    and content of another size or checksum (which is removed).
    """
    path = Path(path)
    if path.is_file():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            expected = _transfer(url, part)
            break
        except urllib.error.HTTPError as error:
            raise ByeError(
                f"{url} answers {error.code} ({error.reason}); fetch it by hand from another place"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            if attempt == ATTEMPTS:
                reason = getattr(error, "reason", error)
                raise ByeError(
                    f"{url} cannot be fetched ({reason}); what came is kept in {part}, "
                    "the same command goes on from there"
                ) from None
            time.sleep(0.2 * 4**attempt if attempt > 1 else 0)
    found = part.stat().st_size
    for wanted in (expected, size):
        if wanted is not None and found != wanted:
            part.unlink()
            raise ByeError(f"{url} gave {found} bytes, not {wanted}; fetch it again")
    if sha256 and _sha256(part) != sha256.lower():
        part.unlink()
        raise ByeError(f"{url} is not the published file (its SHA-256 differs); fetch it again or by hand")
    part.rename(path)


def _transfer(url, part):
    """Append to `part` what is missing of `url`; return the size that the server states, or None.

    Raises OSError or HTTPException where the connection breaks.
    """
    begun = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={begun}-"} if begun else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        total = error.headers.get("Content-Range", "").rpartition("/")[2]
        if error.code == 416 and total == str(begun):  # nothing is missing
            return begun
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (begun if resumed else 0)
        done, printed = begun if resumed else 0, time.monotonic()
        with open(part, "ab" if resumed else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                done += len(chunk)
                if time.monotonic() - printed > SECONDS_BETWEEN_LINES:
                    share = f" of {total / 1e6:.0f}" if total else ""
                    print(f"fetch: {part.stem}, {done / 1e6:.0f}{share} MB", file=sys.stderr, flush=True)
                    printed = time.monotonic()
    if total is not None and done < total:
        raise http.client.IncompleteRead(b"", total - done)
    return total


def unpack(archive, folder):
    """Unpack a zip archive into a folder, nothing outside of it. Raises ByeError for a damaged archive."""
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)  # leaves out ".." and roots
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise ByeError(f"{archive.name} is a damaged archive ({error}); the same command fetches it again") from None


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
