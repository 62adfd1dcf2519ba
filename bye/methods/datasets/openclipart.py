"""Clip art and cut-out photographs, each with a caption: Debian's packages openclipart-png and tuxpaint-stamps-default.

Layout as the packages install it below the root, /usr/share:
- openclipart/png/FOLDER/.../NAME.png, drawings of the Open Clip Art Library. A PNG holds its title and its author. The
  title is taken where it is the picture's own, that is where it fits the file's name; many have that of a collection
  ("Lemon SVG theme"), and then the file's name is taken, without numbers and the author's name, which it often ends
  with. Both make a sentence: "A drawing of a cherry pie.", of a flag or map "A drawing of a flag: France."
- tuxpaint/stamps/FOLDER/.../NAME.png with NAME.txt, whose first line is an English caption.

Left out are links to other pictures, pictures whose name says nothing, all but the first of those with the same caption
(1,375 stars), icons of programs, playing cards, and images that are refused (`bye.data.images`). Some titles are
Italian or French, and stay so.

The set has no official splits: one picture in five, by its name alone (`bye.data.layout.split_of`), is for testing.
"""

import html
import os
import re
import unicodedata
from pathlib import Path

from bye.data.images import header_texts
from bye.data.layout import CAPTION_PROMPT, new_sample, split_of
from bye.errors import ByeError
from bye.files import read_text

DRAWINGS = "openclipart/png"
STAMPS = "tuxpaint/stamps"
# Of the drawings: "kuickshow" and "ornamental" are no captions.
LEFT_OUT = ("computer/icons/", "recreation/games/cards/", "unsorted/duplicates/")
FLAGS, MAPS = "signs_and_symbols/flags", "geography"  # folders of what is named by a place
NOISE = {"aiga", "bwh", "clipart", "ganson", "openclipart", "rpg", "svg"}  # collections and authors in files' names
LETTERS = 3  # of a word, the least that says something
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")
IN_PARENTHESES = re.compile(r"\([^)]*[@.][^)]*\)")  # addresses of authors
NEW_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")  # FunnyFlower
NO_ARTICLE = {"a", "an", "the", "il", "la", "le", "les", "no", "one", "two", "three", "four", "five", "my"}
LINKS = {"of", "with", "in", "on", "and", "for", "from", "di", "de", "con"}  # what follows is not the thing itself
NOT_PLURAL = ("ss", "us", "is")


def parts(root):
    """Return the folders of both packages below `root`."""
    return [root / DRAWINGS, root / STAMPS]


def load(root, split, *, seed):
    """Return the samples of a split ("train" or "test"), one a picture, images relative to `root`; `seed` has no part.

    In the test split `references` holds the caption too. Order: drawings, then stamps, by path.
    """
    root = Path(root)
    samples, seen = [], set()
    for place, caption in [*_captioned(root, DRAWINGS, _drawing), *_captioned(root, STAMPS, _stamp)]:
        if caption.casefold() in seen:
            continue
        seen.add(caption.casefold())
        if split_of(place) != split:
            continue
        sample = new_sample(place.removesuffix(".png"), place, CAPTION_PROMPT, caption)
        samples.append(sample if split == "train" else {**sample, "references": [caption]})
    return samples


def _captioned(root, folder, caption_of):
    """Yield (path relative to root, caption) of the pictures below a folder that have one, sorted by path."""
    paths = sorted(path for path in (root / folder).rglob("*.png") if not path.is_symlink())
    if not paths:
        raise ByeError(f"{root / folder} has no pictures; install openclipart-png and tuxpaint-stamps-default")
    for path in paths:
        try:
            texts = header_texts(path)
        except ByeError:
            continue  # some have hundreds of millions of pixels
        caption = caption_of(path, path.relative_to(root / folder).as_posix(), texts)
        if caption:
            yield path.relative_to(root).as_posix(), caption


def _stamp(path, place, texts):
    """Return the first line of the text beside a stamp, or "" where there is none."""
    source = path.with_suffix(".txt")
    if not source.exists():  # the mirror image of another stamp
        return ""
    lines = read_text(source).strip().splitlines()
    caption = lines[0].strip() if lines else ""
    return f"{caption}." if caption and caption[-1].isalnum() else caption


def _drawing(path, place, texts):
    """Return a sentence of the words that a drawing is named by, or "" where they say nothing."""
    author = _words(_decoded(texts.get("Author", "")))
    words = _own_title(_words(_decoded(texts.get("Title", ""))), path.stem) or _name_words(path.stem, author)
    if place.startswith(LEFT_OUT) or words == author or not any(len(word) >= LETTERS for word in words):
        return ""
    folder = os.path.dirname(place)
    if folder.startswith(FLAGS) and "flag" not in words:
        return f"A drawing of a flag: {_capitals(words)}."
    if folder == MAPS and "map" not in words:
        return f"A drawing of a map: {_capitals(words)}."
    return f"A drawing of {_article(words)}{' '.join(words)}."


def _own_title(words, name):
    """Return the words of a title if they fit the file's name, else none of them."""
    named = _words(name)
    title, file = _plain(words), _plain(named)
    # Files' names are titles and authors in plain letters, cut at some length.
    fits = title.startswith(file) or file.startswith(title) or set(words) <= set(named)
    return words if fits and named else []


def _name_words(name, author):
    """Return the words of a file's name before the author's, without those that say nothing of the picture."""
    words = []
    for word in _words(name):
        if len(word) < LETTERS:
            continue
        if words and word in author:
            break
        words.append(word)
    return words


def _plain(words):
    """Return the letters of words in one, without accents and apostrophes."""
    return "".join(letter for letter in unicodedata.normalize("NFKD", "".join(words)) if letter.isalpha())


def _words(text):
    """Return the words of a title, a name or an author in small letters, without numbers and NOISE."""
    text = NEW_WORD.sub(" ", IN_PARENTHESES.sub(" ", html.unescape(text)))
    return [word.lower() for word in WORD.findall(text) if word.lower() not in NOISE]


def _capitals(words):
    return " ".join(word.capitalize() for word in words)


def _decoded(text):
    """Return a text of a PNG that was written as UTF-8, though the format says Latin-1."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _article(words):
    """Return "a " or "an ", or "" before what is many or has an article."""
    head = next((words[number - 1] for number, word in enumerate(words) if number and word in LINKS), words[-1])
    many = head.endswith("s") and not head.endswith(NOT_PLURAL)
    if many or words[0] in NO_ARTICLE:
        return ""
    return "an " if words[0][0] in "aeiou" else "a "
