"""The extraction stage: one forward pass per sample gives the features that the detectors read.

For each answer of a sample and each decoder layer the attention of the token before it (the query of its first token)
is reduced to: the entropy of its head-averaged distribution over the image tokens (BYE, Eq. 4 and 5), the share of
each head on system, image and text tokens, each head's own entropy, and the image token that it attends to most. Beside
them stand the hidden state of that token and the negative log-likelihood of the answer.
"""

import json

import numpy as np
import pyarrow as pa

from bye.data.check import read_samples
from bye.data.samples import id_of
from bye.errors import ByeError
from bye.extraction.maps import write_maps
from bye.extraction.run import check_finite, load_recording, run
from bye.extraction.states import SEED
from bye.files import write_parquet
from bye.machine import distributed
from bye.workload import Workload


def extract(
    model,
    adapter,
    samples,
    images,
    out,
    batch_size=32,
    maps_for=(),
    maps_out=None,
    family=None,
    quantization=None,
    tuning="lora",
    threads=None,
    device="auto",
    dtype="auto",
    validate=True,
    hidden_layers=(-1,),
):
    """Write attention.parquet (and the maps of chosen ids): a row for each answer of the samples of a file, in order.

    model, adapter, samples, images, out: paths; adapter may be None; tuning: the method that it is of. What comes
    before an answer is seen, earlier turns among it; the answer itself only where its likelihood is told.
    hidden_layers: whose hidden states are kept (`bye.extraction.run.run`).
    maps_for: ids whose maps (Eq. 4) go to the npz file maps_out (see `write_maps`); validate: check the samples file,
    which is not needed where the suite wrote it. Several processes (`bye.machine.distributed`) take the batches in
    turn, and the first one writes. Raises ByeError for bad input and where a number is not finite.
    """
    if maps_for and maps_out is None:
        raise ByeError("attention maps are asked for, but no file for them is named; give --maps-out")
    entries = read_samples(samples, validate=validate)
    maps_for = set(map(str, maps_for))
    unknown = sorted(maps_for - set(map(id_of, entries)))
    if unknown:
        raise ByeError(f"there is no sample {unknown[0]!r} in {samples}; correct the ids that maps are asked for")
    options = {"tuning": tuning, "quantization": quantization, "device": device, "dtype": dtype}
    loaded = load_recording(model, adapter, family, threads, **options)
    work = Workload(loaded, entries, images)
    found = run(work, batch_size, maps_for, hidden_layers)
    if distributed.rank() > 0:
        return
    check_finite(found, work.ids, model, adapter)
    write_parquet(out, _table(work, found))
    if maps_out is not None:
        write_maps(maps_out, work, found.maps)


def _table(work, found):
    """The rows of attention.parquet; the schema's metadata says what the lists' lengths are made of."""
    family = work.family
    columns = {"id": pa.array([work.ids[i] for i in found.samples], pa.string())}
    columns["answer"] = pa.array(found.answers, pa.int32())
    columns["n_image_tokens"] = pa.array(found.n_image_tokens, pa.int32())
    for layer in range(family.n_layers):
        columns[f"entropy_{layer:02d}"] = pa.array(found.entropies[:, layer], pa.float32())
    for role, name in enumerate(("system_mass", "image_mass", "text_mass")):
        columns[name] = _lists(found.masses[:, role])
    columns["head_entropy"] = _lists(found.head_entropies)
    columns["head_token"] = _lists(found.head_tokens)
    columns["hidden"] = _lists(found.hidden)
    columns["nll"] = pa.array(found.nll, pa.float32())
    columns["n_answer_tokens"] = pa.array(found.n_answer_tokens, pa.int32())
    size, width = found.hidden.shape[2], family.width
    metadata = {
        "n_layers": str(family.n_layers),
        "n_heads": str(family.n_heads),
        "hidden_layers": json.dumps(found.hidden_layers),
        "hidden_size": str(size),
        "hidden_projection": "none" if size == width else f"Gaussian, {width} to {size}, seed {SEED}",
    }
    return pa.table(columns).replace_schema_metadata(metadata)


def _lists(array):
    """A column of lists, one of all numbers of each row of an array (n, ...)."""
    flat = array.reshape(len(array), -1)
    ends = np.arange(len(flat) + 1) * flat.shape[1]
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(flat.ravel()))
