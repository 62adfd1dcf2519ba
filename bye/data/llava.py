"""A user's own set: any LLaVA-format JSON or JSON lines file with a folder of images."""

from bye.data.layout import draw
from bye.data.samples import read_samples, validate_samples
from bye.errors import ByeError


def load(root, json, n_train, n_test, seed):
    """Return (train, test): samples of the file `json`, images relative to `root`, checked, in file order, as they are.

    Such a file has no test split: `n_test` samples (None: none) are drawn by `seed` and set apart, and of the others
    `n_train` (None: all) are drawn. Raises ByeError listing what is wrong with the file.
    """
    if json is None:
        raise ByeError("format llava needs the path of a JSON or JSON lines file; give it as json")
    samples = read_samples(json, validate=False)
    validate_samples(samples, json, root, decode=True)
    test = draw(samples, n_test or 0, seed, f"test samples of {json}")
    apart = {id(sample) for sample in test}
    rest = [sample for sample in samples if id(sample) not in apart]
    if not rest:
        raise ByeError(f"{json}: all its {len(samples)} samples are set apart for testing; ask for fewer test samples")
    return draw(rest, n_train, seed, f"training samples of {json}"), test
