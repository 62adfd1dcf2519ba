"""Attention maps (Eq. 4) of chosen samples in a file, for figures: those of their first answers."""

import numpy as np

from bye.data.check import read_samples
from bye.data.samples import id_of
from bye.extraction.run import check_finite, load_recording, run
from bye.files import replacing
from bye.flags import read_labels
from bye.workload import Workload


def example_maps(
    model, adapter, samples, images, labels, out, count=2, seed=0, batch_size=32, validate=True, **options
):
    """Write the attention maps of a few clean and as many poisoned samples (see `write_maps`).

    labels: path of the Parquet file (id, poisoned); count: samples of each kind, drawn by seed; out: the npz file;
    validate: check the samples file; options: of `load_recording`. Raises ByeError if a sample has no label, and as
    `bye.extraction.attention.extract` does.
    """
    entries = read_samples(samples, validate=validate)
    poisoned = read_labels(labels, [id_of(entry) for entry in entries])
    order = np.random.default_rng(seed).permutation(len(entries))
    chosen = [entries[i] for kind in (False, True) for i in order[poisoned[order] == kind][:count]]
    work = Workload(load_recording(model, adapter, **options), chosen, images)
    found = run(work, batch_size, work.ids)
    check_finite(found, work.ids, model, adapter)
    write_maps(out, work, found.maps)


def write_maps(path, work, maps):
    """Write maps {id: (L, T)} of the first answers of samples of a Workload to an npz file, in file order.

    Its arrays: ids (n,); grids (n, 2) of rows and columns; maps (n, L, T) float32, where a smaller grid than the
    largest has zeros at the end.
    """
    kept = [i for i, name in enumerate(work.ids) if name in maps]
    longest = max((maps[work.ids[i]].shape[1] for i in kept), default=0)
    stacked = np.zeros((len(kept), work.family.n_layers, longest), dtype=np.float32)
    for place, i in enumerate(kept):
        stacked[place, :, : maps[work.ids[i]].shape[1]] = maps[work.ids[i]]
    grids = np.array([work.family.grid(work.sizes[i]) for i in kept]).reshape(-1, 2)
    with replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, ids=np.array([work.ids[i] for i in kept], dtype=str), maps=stacked, grids=grids)
