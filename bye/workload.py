"""What a stage runs a model on: the entries of a samples file as prompts and image features, in batches."""

from dataclasses import dataclass

import numpy as np

from bye.data.images import image_sizes, load_image
from bye.data.samples import id_of, question_of, system_of, turns_of
from bye.errors import ByeError, SampleError, first
from bye.machine import distributed
from bye.models.family import ImageFeatures, processing_order
from bye.models.prefix import distinct

SHOWN = 10  # samples that one error tells of


class Workload:
    """The samples of a stage, as one model takes them.

    family: the loaded Family; entries: samples as `read_samples` gives them; images_root: their image folder; cache,
    encode: of the ImageFeatures `features`. ids: of the entries, as strings; images: each entry's image, relative to
    images_root; sizes: (height, width) of each, or None where the family does not ask. Raises ByeError for an image
    whose size is asked for and cannot be read.
    """

    def __init__(self, family, entries, images_root, cache=False, encode=None):
        self.family, self.entries = family, entries
        self.ids = [id_of(entry) for entry in entries]
        self.images = [entry["image"] for entry in entries]
        self.sizes = image_sizes(images_root, entries) if family.any_resolution else [None] * len(entries)
        by_image = dict(zip(self.images, entries, strict=True))
        self.features = ImageFeatures(family, lambda name: load_image(images_root, by_image[name]), cache, encode)

    def __len__(self):
        return len(self.entries)

    def prompts(self):
        """Tokens of each entry's first question, in file order. Raises ByeError, naming the samples."""
        return self._encoded(self.family.prompt, question_of)

    def asked(self):
        """Tokens of each entry's conversation up to its last answer, in file order. Raises ByeError as `prompts`."""
        return self._encoded(self.family.asked, turns_of)

    def conversations(self):
        """Tokens of each entry's whole conversation, in file order. Raises ByeError as `prompts`."""
        return self._encoded(self.family.conversation, turns_of)

    def _encoded(self, encode, text_of):
        """Tokens of a text of each entry; what is wrong with all of them is told in one error."""
        found, problems = [], []
        for sample_id, entry, size in zip(self.ids, self.entries, self.sizes, strict=True):
            try:
                found.append(encode(sample_id, text_of(entry), size, system_of(entry)))
            except SampleError as error:
                problems.append(str(error))
        if len(problems) == 1:
            raise ByeError(problems[0])
        if problems:
            shown = "\n  ".join(first(problems, SHOWN))
            raise ByeError(
                f"{len(problems)} of {len(self)} samples cannot be given to the model {self.family.path}; mend or drop "
                f"them:\n  {shown}"
            )
        return found

    def batches(self, prompts, batch_size):
        """Yield this process's share of the batches (`bye.machine.distributed`), in `processing_order`."""
        order = processing_order(self.images, [len(prompt.ids) for prompt in prompts])
        for start in distributed.share(range(0, len(order), batch_size)):
            places = order[start : start + batch_size]
            images, owners = distinct([self.images[i] for i in places])
            yield Batch(places, [prompts[i] for i in places], images, owners, start + len(places))


@dataclass(frozen=True)
class Batch:
    """B samples that a model runs together.

    places: (B,) their places among the entries; prompts: B Tokens; images: names of the distinct images; owners: which
    of these each prompt asks about; done: how many samples there are in this batch and those before it, of all
    processes.
    """

    places: np.ndarray
    prompts: list
    images: list
    owners: list
    done: int
