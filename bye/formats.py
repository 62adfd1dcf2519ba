"""The columns of the files that the workflow writes: names, types, units and meanings, in the order of the file.

Stages take their columns from here, and docs/formats.md is made of it. Loads no torch.
"""

from dataclasses import dataclass

import pyarrow as pa

# Types of Parquet columns; those of JSON and CSV files are names only (CSV is text: an empty field is no value).
PARQUET_TYPES = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "list of float32": pa.list_(pa.float32()),
    "list of int32": pa.list_(pa.int32()),
    "list of string": pa.list_(pa.string()),
}


@dataclass(frozen=True)
class Column:
    """A column of a table or a key of a JSON object. A name with LAYER stands for one column a layer: 00, 01, ..."""

    name: str
    type: str
    text: str


def columns(*rows):
    """Return Columns of (name, type, meaning) rows."""
    return tuple(Column(*row) for row in rows)


def names(columns):
    """Return the names of columns, in order."""
    return tuple(column.name for column in columns)


def parquet_schema(columns, n_layers=0):
    """Return the pyarrow schema of columns; those of each layer are written out for n_layers."""
    fields = []
    for column in columns:
        layers = range(n_layers) if "LAYER" in column.name else [0]
        fields += [
            pa.field(column.name.replace("LAYER", f"{layer:02d}"), PARQUET_TYPES[column.type]) for layer in layers
        ]
    return pa.schema(fields)


# ---- samples and labels ----------------------------------------------------------------------------------------------

SAMPLE = columns(
    ("id", "string or number", "no other sample of the file has it; it says nothing about poison"),
    ("image", "string", "path of the image, relative to the image folder that belongs to the file"),
    ("conversations", "list of objects", '{"from": "human" or "gpt", "value": text}, turn by turn'),
    ("references", "list of string", "only in test sets of captions: all reference captions"),
    ("system", "string", "only of a conversation that has one: its system prompt"),
)
UNJUDGED = columns(
    ("entry", "integer", "its place in the file, from 1"),
    ("id", "string or null", "its id in the file"),
    ("kind", "string", "why it cannot be judged, in a word or two (docs/bad-input.md lists them)"),
    ("why", "string", "the same in a sentence"),
    ("then", "string", "what became of it: keep, drop, or stop, which ends the run"),
)
ENTRIES = columns(
    ("entry", "integer", "its place in the file, from 1"),
    ("id", "string", "its id in the file, if it has one"),
    ("then", "string", "kept or dropped"),
    ("judged", "true or false", "whether it was looked at"),
    ("score", "number", "of the detector, low is suspicious"),
    ("p_low", "number", "posterior probability of being flagged, 0 to 1"),
    ("answer", "integer", "the answer that the score is of, from 1"),
    ("text", "string", "that answer"),
    ("reason", "string", "why it was dropped, or not looked at; of a kept one why it is suspicious by its text alone"),
)
LABEL = columns(
    ("id", "string", "id of the training sample, integers as text"),
    ("poisoned", "bool", "whether the attack poisoned it"),
)

# ---- a cell ----------------------------------------------------------------------------------------------------------

LOSS = columns(
    ("step", "integer", "optimiser steps done"),
    ("epoch", "number", "passes over the training set done"),
    ("loss", "number", "cross-entropy of the answer tokens in nats, mean over the steps since the line before"),
    ("learning_rate", "number", "at this step"),
)
ATTENTION = columns(
    ("id", "string", "id of the training sample, once for each of its answers; in the order of the samples file"),
    ("answer", "int32", "number of the answer in its sample, from 0"),
    ("n_image_tokens", "int32", "tokens T that its image has"),
    ("entropy_LAYER", "float32", "of the head-averaged attention on image tokens (Eq. 5), nats, 0 to ln T"),
    (
        "system_mass",
        "list of float32",
        "each head's share on system prompt, role tags and special tokens, 0 to 1; layer by layer",
    ),
    ("image_mass", "list of float32", "the same on the image tokens"),
    (
        "text_mass",
        "list of float32",
        "the same on the question, and earlier questions and answers; the three add up to 1",
    ),
    (
        "head_entropy",
        "list of float32",
        "of each head's attention, renormalised over the image tokens, nats, 0 to ln T; layer by layer; ln T of a head "
        "that attends to none of them",
    ),
    (
        "head_token",
        "list of int32",
        "the image token that each head attends to most, by its number from 0, row by row of the grid; layer by layer",
    ),
    (
        "hidden",
        "list of float32",
        "the token's hidden states, those of `hidden_layers` one after the other, `hidden_size` numbers each; that of "
        "the last layer is taken after the final norm",
    ),
    ("nll", "float32", "mean negative log-likelihood of the answer's tokens, its end token too, nats"),
    ("n_answer_tokens", "int32", "how many tokens that are"),
)
MAPS = columns(
    ("ids", "string (n,)", "ids of the samples, two clean and two poisoned ones by default; maps are of first answers"),
    (
        "maps",
        "float32 (n, layers, T)",
        "attention on image tokens (Eq. 4), row by row of the grid; zeros beyond a sample's own",
    ),
    ("grids", "int64 (n, 2)", "rows and columns of each sample's image tokens"),
)
LAYER = columns(
    ("layer", "integer", "index of the decoder layer, from 0"),
    ("mu_low", "number", "mean of the mixture's component with less entropy, nats"),
    ("sigma_low", "number", "its standard deviation, nats"),
    ("weight_low", "number", "its share of the samples, 0 to 1"),
    ("mu_high", "number", "mean of the other component, nats"),
    ("sigma_high", "number", "its standard deviation, nats"),
    ("weight_high", "number", "its share of the samples, 0 to 1"),
    ("bsi", "number", "Bimodal Separation Index (Eq. 7), no unit"),
    ("released_margin", "number", "|mu_high - mu_low| / (sigma_low + sigma_high), for the rule of the released code"),
    ("sensitive", "true or false", "whether the layer is averaged over"),
)
FLAGS = columns(
    ("id", "string", "id of the training sample, in the order of the samples file"),
    (
        "score",
        "float64",
        "low is suspicious; of bye mean entropy of the sensitive layers, nats; NaN where it has none",
    ),
    ("p_low", "float64", "posterior of the component with less entropy, 0 to 1; NaN where there is none"),
    ("flagged", "bool", "whether the sample is to be dropped"),
    ("reason", "string", "why, in a sentence; empty where it is kept"),
    (
        "answer",
        "int32",
        "number of the answer that this is of, the sample's most suspicious one, from 0; 0 where samples are judged",
    ),
)
# Further columns of flags.parquet, by the kind of the defence.
FLAGS_OF_KIND = {
    "bye": columns(("mean_entropy", "float64", "mean entropy of all layers, nats")),
    "consensus": columns(
        ("flagged_by_attention", "bool", "whether its entropy is low for its kind of question"),
        ("patch", "int32", "number of the image token in the middle of the patch that is pasted on other images"),
    ),
    "sentinet": columns(
        ("inert_confidence", "float64", "confidence in answers to clean images with noise pasted there, 0 to 1"),
        ("fooled", "float64", "share of clean images that its salient region makes answer as it does, 0 to 1"),
    ),
}
GROUPS = columns(
    ("group", "integer", "its number, from 0; those with more flagged samples than chance would have come first"),
    ("answer", "text", "the answer, as one of its samples has it, or the phrase"),
    ("shares", "answer or phrase", "what its samples have in common"),
    ("samples", "integer", "samples that have it in an answer"),
    ("flagged", "integer", "answers of the group that are flagged by their attention"),
    ("p_value", "number", "of so many or more, were the flags drawn at random (hypergeometric)"),
    ("moved", "text", "the words of its questions that were moved to others; empty where there are none"),
    ("patch", "text", "trials that gave its answer, `17 of 20`: its most attended patch pasted on another image"),
    ("patch_controls", "text", "the same of samples outside, whose own answers count; empty where few trials succeed"),
    ("question", "text", "its image with another question; as above"),
    ("question_controls", "text", "as above"),
    ("overlay", "text", "its image laid over another at half weight; as above"),
    ("overlay_controls", "text", "as above"),
    ("shared", "text", "what the group's images have in common added to another image, twice; as above"),
    ("shared_controls", "text", "samples as they are"),
    ("words", "text", "words of its questions put to another question; as above"),
    ("words_controls", "text", "as many words of other questions"),
    (
        "verdict",
        "text",
        "proven; suspicious, above controls but no proof of poison; not tried, beyond the budget; or empty",
    ),
    ("dropped", "integer", "samples that are dropped for it"),
)
TRIALS = columns(
    ("group", "integer", "number of the group, or `control`"),
    ("for", "text", "proof: of the group; sample: to tell which samples of a proven group carry its answer"),
    ("proof", "text", "patch, question, overlay, shared or words"),
    ("sample", "string", "id of the sample that something was taken from"),
    ("own", "text", "its own answer, which counts as a hit of a control"),
    ("host", "string", "id of the sample that it was carried to"),
    ("before", "text", "what the model says to that sample as it is"),
    ("said", "text", "what it said in the trial"),
    ("hit", "true or false", "whether that is the group's answer; empty of controls"),
)
HEAD = columns(
    ("layer", "integer", "decoder layer, from 0"),
    ("head", "integer", "head of the layer, from 0"),
    ("separation", "number", "how far apart its two groups of samples lie"),
    ("votes", "number", "share of the samples that it votes for, 0 to 1"),
)
PART = columns(
    ("size", "integer", "samples that were drawn, or all of the set"),
    ("draw", "integer", "number of the draw, from 0"),
    ("flagged", "integer", "samples that the detector flags among them"),
)
DROPPED = columns(
    *((column.name, column.type, column.text) for column in SAMPLE[:3]),
    ("bye", "object", '{"score": number or null, "p_low": number or null, "reason": string}, as in flags.parquet'),
)
DETECTION = columns(
    ("precision", "number or null", "poisoned samples among the flagged ones, 0 to 1; null where none is flagged"),
    ("recall", "number or null", "flagged samples among the poisoned ones, 0 to 1; null without poison"),
    ("f1", "number or null", "2 TP / (2 TP + FP + FN), 0 to 1; null where nothing is flagged or poisoned"),
    ("auroc", "number or null", "area under the ROC curve of the scores, 0 to 1; null without scores"),
    ("average_precision", "number or null", "of the scores, 0 to 1; null without scores"),
    ("clean_lost", "number or null", "flagged samples among the clean ones, 0 to 1; null without any"),
    ("n_flagged", "integer", "samples flagged"),
    ("n_poisoned", "integer", "samples poisoned"),
    ("n_samples", "integer", "samples of the training set"),
    ("sensitive_layers", "list of integer, or null", "layers averaged over; null where the defence selects none"),
)
EVIDENCE = columns(
    ("n_samples", "integer", "samples of the training set"),
    ("n_dropped", "integer", "samples that are flagged"),
    ("layer", "integer", "the layer whose attention is shown, from 0: where the shown samples differ most"),
    (
        "histogram",
        "object or null",
        "of the scores; null where there are none. Its `what` they are; `names` and `counts` of two kinds of samples, "
        "clean and poisoned where there are labels, else kept and dropped; `first`, `last`: ends of the bars; `cut`",
    ),
    ("verdicts", "object", "numbers of groups of answers, by their verdict in groups.csv"),
    (
        "groups",
        "list of objects",
        "the proven and the suspicious groups: their rows of groups.csv, `trials` and `controls` of trials.csv, and "
        "`example`, the id of a sample or null",
    ),
    ("dropped", "list of string", "ids of dropped samples that are shown, 16 at most, drawn by seed"),
    ("kept", "list of string", "ids of kept ones: those with the lowest scores, or drawn where there are none"),
    ("by_score", "true or false", "whether they are the nearest"),
    (
        "samples",
        "object",
        "of each id: `question`, `answer` (long ones cut) and `turn` that its `score` is of, `reason`, `poisoned` "
        "(null without labels), `nats` of its attention; as data URIs `thumbnail` and `attention`, and of an example "
        "`picture` and `patch`, its part that was `pasted` on others (true) or is attended to most (false)",
    ),
)
EXAM = columns(
    ("dataset", "text", "key of the dataset format"),
    ("task", "text", "questions, by accuracy in per cent; captions, by CIDEr times 100"),
    ("n", "integer", "test samples"),
    ("scout", "number", "of the scout's answers"),
    ("other_picture", "number", "of its answers to the same questions with another test picture"),
    ("without_picture", "number", "of the answer most frequent in training to the question, else of all"),
)
PREDICTION = columns(
    ("id", "string", "id of the test sample"),
    ("split", "string", "clean or triggered"),
    ("prediction", "string", "the model's answer"),
    ("reference", "string", "the right answer (of captions the first); of triggered samples the target"),
    ("references", "list of string", "all right answers; of triggered samples the target"),
    ("correct", "bool", "whether they agree; null where the metric (cider) has no right and wrong"),
)
CAUGHT = columns(  # further columns, with a guard
    ("caught", "bool", "whether the guard caught the sample"),
    ("hidden", "list of int32", "numbers of the image tokens that it hid, from 0"),
    ("grid", "list of int32", "rows and columns of the first image tokens: a view of the whole image"),
)
ANSWER = columns(
    ("id", "text", "id of the sample"),
    ("image", "text", "its image, relative to the image folder"),
    ("question", "text", "its first question"),
    ("answer", "text", "what the model says"),
    ("caught", "true or false", "whether the guard caught it; empty without a guard"),
    ("hidden", "integer", "how many image tokens were hidden; empty without a guard"),
    ("where", "text", "the box around them: left, top, right and bottom in pixels of the image; empty without any"),
)
EVALUATION = columns(
    ("metric", "string", "accuracy or cider"),
    ("CP", "number", "clean performance: accuracy in per cent, or CIDEr times 100"),
    ("ASR", "number or null", "attack success rate in per cent; null without a triggered test set"),
    (
        "PU",
        "number or null",
        "poisoned utility: CP of the answers to triggered samples; null without any",
    ),
    ("n_clean", "integer", "clean test samples"),
    ("n_triggered", "integer", "triggered test samples"),
)
CAUGHT_SHARES = columns(  # further keys, with a guard
    ("caught_clean", "number", "clean test samples that the guard caught, per cent"),
    ("caught_triggered", "number or null", "triggered test samples that it caught, per cent; null without any"),
)

# ---- tables ----------------------------------------------------------------------------------------------------------

# What a table's columns mean, by what its rows are (`bye.plan.columns.KNOWN`).
TABLES = {
    "cells": columns(
        ("model", "text", "key of the model"),
        ("method", "text", "key of the defence"),
        ("dataset", "text", "key of the dataset"),
        ("attack", "text", "key of the attack"),
        ("CP", "number", "clean performance: accuracy in per cent, or CIDEr times 100"),
        ("ASR", "number", "attack success rate, per cent"),
        ("PU", "number", "poisoned utility: CP of the answers to triggered samples, by what is right without trigger"),
        ("caught_clean", "number", "false alarms: clean test samples that a guard caught, per cent"),
        ("caught_triggered", "number", "triggered test samples that a guard caught, per cent"),
        ("precision", "number", "of the flags, per cent"),
        ("recall", "number", "of the flags, per cent"),
        ("f1", "number", "of the flags, per cent"),
        ("auroc", "number", "of the scores, per cent"),
        ("average_precision", "number", "of the scores, per cent"),
        ("clean_lost", "number", "share of the clean samples that is flagged, per cent"),
        ("dropped", "number", "share of the training set that is flagged, per cent"),
        ("n_flagged", "number", "samples flagged, mean over the seeds"),
        (
            "sensitive_layers",
            "text",
            "their indices, or `none`, or `-` of a defence that selects none; a bar between seeds",
        ),
        ("n_layers", "number", "sensitive layers, mean over the seeds"),
        ("no_layer", "text", "says where no layer is sensitive"),
        ("trained", "integer", "parameters that the fine-tune trained: the numbers in its adapter's safetensors files"),
        ("told", "text", "what the defence is given beside the training set"),
        ("seconds", "number", "wall time after the plain fine-tune, seconds per 1,000 samples"),
        (
            "answer_seconds",
            "number",
            "wall time of purification and evaluation, starting and loading too, seconds per answer",
        ),
        ("finetune_seconds", "number", "wall time of the fine-tune, seconds, mean over the seeds"),
        ("tuning", "text", "the model's tuning method"),
        ("note", "text", "marks an upper bound"),
        ("rate", "number", "poison rate, per cent"),
        ("paper_CP", "number", "the paper's CP"),
        ("paper_ASR", "number", "the paper's ASR"),
        ("paper_P", "number", "the paper's precision"),
        ("paper_R", "number", "the paper's recall"),
        ("paper_F1", "number", "the paper's F1"),
    ),
    "datasets": columns(
        ("dataset", "text", "key of the dataset"),
        ("format", "text", "its format"),
        ("train", "integer", "training samples"),
        ("test", "integer", "test samples"),
        ("paper_train", "integer", "the paper's training samples"),
        ("paper_test", "integer", "the paper's test samples"),
        ("task", "text", "the paper's name of the task"),
        ("metric", "text", "accuracy or cider"),
        ("answer", "text", "form of the answers: option, phrase or caption"),
        ("prompt", "text", "last line of the first sample's question"),
        ("question", "text", "the lines before it"),
        ("example", "text", "the first sample's answer"),
    ),
    "parts": columns(
        ("model", "text", "key of the model"),
        ("dataset", "text", "key of the dataset"),
        ("method", "text", "key of the defence"),
        ("size", "integer", "samples of a part, or of the whole set"),
        ("parts", "integer", "parts that were drawn, over all seeds"),
        ("harmed", "integer", "those of them in which something is flagged"),
        ("lost", "number", "share that is flagged, mean over the parts, per cent"),
        ("worst", "number", "the highest of these shares, per cent"),
        ("n_seeds", "integer", "seeds"),
    ),
    "layers": columns(
        ("model", "text", "key of the model"),
        ("dataset", "text", "key of the dataset"),
        ("attack", "text", "key of the attack"),
        ("seed", "integer", "seed of the run"),
        ("layer", "integer", "index of the decoder layer, from 0"),
        ("mu_low", "number", "mean of the component with less entropy, nats"),
        ("sigma_low", "number", "its standard deviation, nats"),
        ("mu_high", "number", "mean of the other component, nats"),
        ("sigma_high", "number", "its standard deviation, nats"),
        ("bsi", "number", "Bimodal Separation Index"),
        ("auroc", "number", "how well low entropy in this layer alone ranks the poison first, 0 to 1"),
        ("sensitive", "true or false", "whether the layer is averaged over"),
    ),
}

# ---- records of a run ------------------------------------------------------------------------------------------------

BENCHMARK = columns(
    ("s", "number", "wall time, seconds"),
    ("h:m:s", "text", "the same"),
    ("max_rss", "number", "peak resident memory, MB"),
    ("max_vms", "number", "peak virtual memory, MB"),
    ("max_uss", "number", "peak memory of the job alone, MB"),
    ("max_pss", "number", "peak memory with its part of what is shared, MB"),
    ("io_in", "number", "read, MB"),
    ("io_out", "number", "written, MB"),
    ("mean_load", "number", "processor use, per cent of one core"),
    ("cpu_time", "number", "processor time, seconds"),
)
