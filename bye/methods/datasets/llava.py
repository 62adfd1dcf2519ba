"""A user's own set: any LLaVA-format JSON or JSON lines file with a folder of images."""

from bye.data.layout import draw
from bye.data.samples import read_samples, validate_samples
from bye.errors import ByeError


def load(root, json, test_json, n_train, n_test, seed):
    """Return (train, test): samples of the file `json`, images relative to `root`, checked, in file order, as they are.

    The test samples come from `test_json`, where there is one (`n_test` of them drawn by `seed`, None: all). Otherwise
    `n_test` samples (None: none) are drawn from `json` and set apart. Of the rest `n_train` (None: all) are drawn for
    training. Raises ByeError listing what is wrong with a file.
    """
    if json is None:
        raise ByeError("format llava needs the path of a JSON or JSON lines file; give it as json")
    samples = _checked(json, root)
    if test_json is not None:
        test = draw(_checked(test_json, root), n_test, seed, f"test samples of {test_json}")
        return draw(samples, n_train, seed, f"training samples of {json}"), test
    test = draw(samples, n_test or 0, seed, f"test samples of {json}")
    apart = {id(sample) for sample in test}
    rest = [sample for sample in samples if id(sample) not in apart]
    if not rest:
        raise ByeError(f"{json}: all its {len(samples)} samples are set apart for testing; ask for fewer test samples")
    return draw(rest, n_train, seed, f"training samples of {json}"), test


def _checked(path, root):
    samples = read_samples(path, validate=False)
    validate_samples(samples, path, root, decode=True)
    return samples
