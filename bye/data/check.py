"""Everything about a file of entries that can be known before a model is run: what is a sample, what cannot be judged.

All of it is found in one go, before anything is trained: the form of each entry, its image, and with a model whether
its text fits.
"""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context

from bye.data.entries import EntryFile
from bye.data.findings import STOP, count_kinds, fate, finding, stop_for
from bye.data.forms import given_id, to_sample
from bye.data.images import check_whole, image_path, upright_size
from bye.data.samples import read_written, system_of, turns_of
from bye.errors import ByeError, SampleError, counted
from bye.files import write_json
from bye.machine.progress import watched

ALONE = 500  # images that one process checks before others are worth their start


@dataclass
class Checked:
    """What a file of entries holds.

    n_entries: how many; samples: those that can be judged, as the suite has them; numbers: their places in the file,
    from 1; sizes: (height, width) of their images, where images were looked at; findings: of the others, in file order;
    given: their ids in the file, or None (where one is missing or repeats, the samples have their numbers for ids);
    remarks: of `bye.data.forms` on each of them, a list.
    """

    n_entries: int = 0
    samples: list = field(default_factory=list)
    numbers: list = field(default_factory=list)
    given: list = field(default_factory=list)
    sizes: list = field(default_factory=list)
    findings: list = field(default_factory=list)
    remarks: list = field(default_factory=list)

    @property
    def notes(self):
        """Counter of how many samples each remark is true of."""
        return Counter(remark for remarks in self.remarks for remark in remarks)

    def findings_of(self, problems):
        """Return the Findings of samples. problems: {place among the samples: SampleError}."""
        return [finding(self.numbers[place], error, self.given[place]) for place, error in problems.items()]

    def leave_out(self, problems):
        """Move samples to the findings. problems: as in `findings_of`."""
        self.findings += self.findings_of(problems)
        self.findings.sort(key=lambda finding: finding.number)
        left = [place for place in range(len(self.samples)) if place not in problems]
        for name in ("samples", "numbers", "given", "remarks", "sizes"):
            listed = getattr(self, name)
            setattr(self, name, [listed[place] for place in left] if listed else [])


def check_entries(entries, images_root=None, decode=False, links=False, jobs=1):
    """Return what is Checked of the values of a file's entries, which are read once.

    images_root: the folder of the images; without it they are not looked at; decode: whole, not their headers alone;
    links: as in `image_path`; jobs: processes.
    """
    checked = Checked()
    for number, entry in enumerate(entries, start=1):
        checked.n_entries = number
        given = given_id(entry)
        try:
            sample, notes = to_sample(entry)
        except SampleError as error:
            checked.findings.append(finding(number, error, given))
            continue
        checked.remarks.append(notes)
        checked.samples.append(sample)
        checked.numbers.append(number)
        checked.given.append(given)
    if None in checked.given or len(set(checked.given)) < len(checked.given):
        for number, sample in zip(checked.numbers, checked.samples, strict=True):
            sample["id"] = number
    if images_root is not None:
        if not os.path.isdir(images_root):
            raise ByeError(f"image folder {images_root} does not exist; check the path")
        _look_at_images(checked, images_root, decode, links, jobs)
    return checked


def read_samples(path, images_root=None, validate=True):
    """Return the samples of a file as a list of dicts, in file order and with all their keys.

    With `validate`, the file may have any form that is read, everything about it is checked, with `images_root` also
    the images' paths and headers, and ByeError lists what cannot be used. `validate=False` is for files that this suite
    wrote.
    """
    return checked_samples(EntryFile(path), path, images_root) if validate else read_written(path)


def checked_samples(entries, source, images_root=None, decode=False):
    """Return the samples of a file's entries. Raises ByeError where one of them cannot be judged, listing those."""
    checked = check_entries(entries, images_root, decode)
    stop_for(checked.findings, source, checked.n_entries)
    return judged(checked, source)


def judged(checked, source):
    """Return the samples of what is Checked. Raises ByeError where there are none, saying why."""
    if not checked.n_entries:
        raise ByeError(f"{source} has no samples; give a file with at least one")
    if not checked.samples:
        found = count_kinds(checked.findings)
        raise ByeError(f"{source}: none of its {counted(checked.n_entries, 'sample')} can be judged: {found}")
    return checked.samples


def text_problems(checked, family):
    """Return {place among the samples: SampleError} of those that a model cannot be given.

    They are too long, or not to be tokenised. family: the model, of which no weights are needed.
    """
    problems = {}
    sizes = checked.sizes or [None] * len(checked.samples)
    told = watched(zip(checked.samples, sizes, strict=True), "texts", len(checked.samples), "samples")
    for place, (sample, size) in enumerate(told):
        try:
            family.check(turns_of(sample), size, system_of(sample))
        except SampleError as error:
            problems[place] = error
    return problems


def _look_at_images(checked, images_root, decode, links, jobs):
    names = list(dict.fromkeys(sample["image"] for sample in checked.samples))
    look = partial(_look_at, images_root, decode, links)
    if len(names) < ALONE or jobs == 1:
        found = dict(zip(names, watched(map(look, names), "images", len(names), "images"), strict=True))
    else:
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            results = pool.map(look, names, chunksize=64)
            found = dict(zip(names, watched(results, "images", len(names), "images"), strict=True))
    checked.sizes = [found[sample["image"]] for sample in checked.samples]
    problems = {place: each for place, each in enumerate(checked.sizes) if isinstance(each, SampleError)}
    checked.leave_out(problems)


def _look_at(images_root, decode, links, name):
    """Return (height, width) of an image, or the SampleError."""
    try:
        path = image_path(images_root, name, links)
        return check_whole(path) if decode else upright_size(path)
    except ByeError as error:
        return SampleError(getattr(error, "kind", "unreadable image"), str(error))


def stopping(findings, policy):
    """Return those of the findings that stop the run, by a policy or by what is usual for each."""
    return [finding for finding in findings if fate(finding, policy) == STOP]


def write_unjudged(path, findings, policy):
    """Write the list of what was not looked at as JSON: entry, id, kind, why, and what became of it."""
    rows = [
        {"entry": each.number, "id": each.id, "kind": each.kind, "why": each.text, "then": fate(each, policy)}
        for each in findings
    ]
    write_json(path, rows)
