"""UC Merced Land Use (Yang and Newsam, ACM GIS 2010): aerial photographs of 21 classes; the questions are made here.

Layout of the official download: UCMerced_LandUse/Images/CLASS/CLASSNN.tif, below the root; images/CLASS/ with pictures
of another format does too. 100 tiles a class, of 256 x 256 pixels.

The set has classes and no questions. Each tile gets two of three, which ones is drawn by the tile's name:
- "What kind of land use is shown?" with the class in words ("golf course");
- "Is this mainly a golf course?" with yes or no, each for half of the tiles that are asked; the class in a question
  whose answer is no is drawn among those that cannot be taken for the tile's own (ALIKE);
- a request for a caption ("An aerial photograph of a golf course.").

The set has no official split. In each class the tiles are put into the order of a hash of their names, and the first
fifth is for testing.
"""

from pathlib import Path

from bye.data.images import ENDINGS
from bye.data.layout import CAPTION_PROMPT, PHRASE_PROMPT, TESTED, first_folder, hash_of, new_sample
from bye.errors import ByeError

IMAGE_FOLDERS = ("UCMerced_LandUse/Images", "Images", "images")
# Each class in words, and the article before them.
CLASSES = {
    "agricultural": ("", "farmland"),
    "airplane": ("an ", "airplane"),
    "baseballdiamond": ("a ", "baseball diamond"),
    "beach": ("a ", "beach"),
    "buildings": ("", "buildings"),
    "chaparral": ("", "chaparral"),
    "denseresidential": ("a ", "dense residential area"),
    "forest": ("a ", "forest"),
    "freeway": ("a ", "freeway"),
    "golfcourse": ("a ", "golf course"),
    "harbor": ("a ", "harbor"),
    "intersection": ("an ", "intersection"),
    "mediumresidential": ("a ", "medium residential area"),
    "mobilehomepark": ("a ", "mobile home park"),
    "overpass": ("an ", "overpass"),
    "parkinglot": ("a ", "parking lot"),
    "river": ("a ", "river"),
    "runway": ("a ", "runway"),
    "sparseresidential": ("a ", "sparse residential area"),
    "storagetanks": ("", "storage tanks"),
    "tenniscourt": ("", "tennis courts"),
}
# Classes of one group can be seen together on a tile, so that "no" could be wrong.
ALIKE = (
    {"freeway", "intersection", "overpass"},
    {"buildings", "denseresidential", "intersection", "mediumresidential", "mobilehomepark", "parkinglot"},
    {"denseresidential", "mediumresidential", "mobilehomepark", "sparseresidential", "tenniscourt"},
    {"agricultural", "chaparral", "forest", "golfcourse", "river", "sparseresidential"},
    {"airplane", "runway"},
    {"beach", "harbor"},
)


def parts(root):
    """Return the folders of the classes that a whole download has below `root`."""
    folder = next((name for name in IMAGE_FOLDERS if (root / name).is_dir()), IMAGE_FOLDERS[0])
    return [root / folder / name for name in CLASSES]


def load(root, split, *, seed):
    """Return the samples of a split ("train" or "test"), two a tile, images relative to `root`; `seed` plays no part.

    Order: by class, then by the tile's name.
    """
    root = Path(root)
    folder = first_folder(root, IMAGE_FOLDERS, "tiles")
    samples = []
    for name in CLASSES:
        for tile in _tiles(root / folder / name, split):
            image = tile.relative_to(root).as_posix()
            for number, (question, answer) in enumerate(_questions(name, tile.stem), start=1):
                samples.append(new_sample(f"{tile.stem}-{number}", image, question, answer))
    return samples


def _tiles(folder, split):
    """Return the paths of a class's tiles of one split, sorted by name."""
    found = folder.iterdir() if folder.is_dir() else ()
    tiles = sorted(path for path in found if path.suffix.lower() in ENDINGS)
    if not tiles:
        raise ByeError(f"{folder} has no tiles; give the root of the official download")
    shuffled = sorted(tiles, key=lambda tile: hash_of(tile.stem))
    tested = set(shuffled[: round(len(tiles) / TESTED)])
    return [tile for tile in tiles if (tile in tested) == (split == "test")]


def _questions(name, tile):
    """Return two (question, answer) on a tile of the class `name`: two of three kinds, in a fixed order."""
    article, words = CLASSES[name]
    asked, answer = _asked_about(name, tile)
    questions = [
        (f"What kind of land use is shown?\n{PHRASE_PROMPT}", words),
        (f"Is this mainly {''.join(CLASSES[asked])}?\n{PHRASE_PROMPT}", answer),
        (CAPTION_PROMPT, f"An aerial photograph of {article}{words}."),
    ]
    del questions[hash_of(f"kind of {tile}") % len(questions)]
    return questions


def _asked_about(name, tile):
    """Return (class, answer) of the question with yes or no on a tile of the class `name`."""
    if hash_of(f"answer of {tile}") % 2:
        return name, "yes"
    near = {name}.union(*(group for group in ALIKE if name in group))
    others = [other for other in CLASSES if other not in near]
    return others[hash_of(f"class of {tile}") % len(others)], "no"
