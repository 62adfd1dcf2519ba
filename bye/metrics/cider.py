"""CIDEr, the clean performance of the captioning task, on Penn Treebank tokens; both as in pycocoevalcap."""

import math
import re
from collections import Counter

import numpy as np

LENGTHS = (1, 2, 3, 4)  # of n-grams, in words
SIGMA = 6.0  # width of the penalty for a difference in caption length, in words

# What pycocoevalcap drops after tokenisation. Brackets stay: the tokenizer writes "-lrb-", and only "-LRB-" is on its
# list. Runs such as "!!" stay too.
DROPPED = {"'", "''", '"', "`", "``", ".", "?", "!", ",", ":", ";", "-"}
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
SYMBOLS = {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4"}
JOINED = ("can not", "gon na", "got ta", "wan na", "gim me", "lem me", "'t is", "'t was")
REPLACED = BRACKETS | SYMBOLS | {words.replace(" ", ""): words for words in JOINED}
TYPOGRAPHIC = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "–": "--", "—": "--", "…": "..."})
ABBREVIATIONS = (
    r"mr|mrs|ms|dr|prof|st|mt|ft|jr|sr|sgt|capt|col|gen|lt|gov|sen|rep|rev|inc|co|corp|ltd|bros|ave|blvd|rd|etc|vs|ph\.d"
    r"|al|fig|jan|feb|mar|apr|aug|sept|oct|nov|dec|no(?=\.\s?\d)"
)
# The first alternative that fits at a place makes the token. Letters and digits are [^\W_].
TOKEN = re.compile(
    rf"""
      </?[a-z]\w*>                            # <unk>
    | [@\#][a-z]\w*                           # @name  #tag
    | (?<!\w)(?:[^\W\d_]\.)+(?!\w)            # u.s.  p.m.  j.
    | (?<!\w)(?:{ABBREVIATIONS})\.            # dr.  etc.
    | \d+(?:[.,:]\d+)+ | (?<!\w)[-+.]\d+      # 1,000  2.5  7:30  +5  .5
    | (?<!\w)'(?:(?:tis|twas|em|cause|\d\ds|s|m|d|re|ve|ll)(?!\w)|n')   # 'em  '90s  'n'
    | [^\W_]+(?:[-/.&][^\W_]+|'[^\W\d_]+)*    # t-shirt  cat/dog  1/2  a&b  isn't  o'clock
    | \.\.+ | --+ | [?!]+ | ''+ | ``+ | \*+ | \S
    """,
    re.VERBOSE,
)
CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))$")


def tokenize(caption):
    """Return the tokens of a caption, in lower case and without punctuation.

    Follows the Stanford PTBTokenizer with pycocoevalcap's options for what captions hold: contractions ("is n't",
    "dog 's"), abbreviations, numbers, hyphens, quotes, brackets. Rarer things (web addresses, emoticons) may differ.
    """
    tokens = []
    for token in TOKEN.findall(caption.translate(TYPOGRAPHIC).lower()):
        if token in DROPPED or token.startswith(("..", "--")):
            continue
        endings = []
        while contraction := CONTRACTION.search(token):
            endings.insert(0, contraction[0])
            token = token[: contraction.start()]
        tokens += [*REPLACED.get(token, token).split(), *endings]
    return tokens


def cider(predictions, references):
    """Score captions by CIDEr as pycocoevalcap's ``Cider`` does: clipped TF-IDF, with a Gaussian penalty on length.

    That is the form also called CIDEr-D without stemming. The document frequencies are those of the given references,
    so scores of different test sets do not compare, and a set of one image scores 0.

    Parameters
    ----------
    predictions : list of str, one caption an image.
    references : list of list of str, the references of each image (at least one each).

    Returns
    -------
    score : float
        Mean over the images, 0..10; the paper and this suite's tables report it times 100.
    scores : ndarray of shape (n_images,)

    Raises
    ------
    ValueError
        If there are no captions, the two lists differ in length, or an image has no reference.

    References
    ----------
    Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015.
    """
    if not predictions or len(predictions) != len(references) or not all(references):
        raise ValueError("CIDEr needs one prediction and at least one reference for each image, and at least one image")
    hypotheses = [_count(prediction) for prediction in predictions]
    groups = [[_count(reference) for reference in group] for group in references]
    documents = Counter(ngram for group in groups for ngram in set().union(*group))
    scores = []
    for hypothesis, group in zip(hypotheses, groups, strict=True):
        caption = _Vector(hypothesis, documents, len(groups))
        others = [_Vector(reference, documents, len(groups)) for reference in group]
        scores.append(10 * np.mean([_similarity(caption, other) for other in others]))
    return float(np.mean(scores)), np.array(scores)


def _count(caption):
    """Return the number of times each n-gram (a tuple of words) occurs in a caption."""
    words = tokenize(caption)
    return Counter(tuple(words[i : i + n]) for n in LENGTHS for i in range(len(words) - n + 1))


class _Vector:
    """TF-IDF weights of one caption, their norm for each n-gram length, and the caption's length."""

    def __init__(self, counts, documents, n_images):
        # An n-gram that no reference has weighs as one that a single image has.
        self.values = {ngram: count * math.log(n_images / max(1, documents[ngram])) for ngram, count in counts.items()}
        squares = np.zeros(len(LENGTHS))
        for ngram, value in self.values.items():
            squares[len(ngram) - 1] += value**2
        self.norms = np.sqrt(squares)
        self.length = sum(count for ngram, count in counts.items() if len(ngram) == 2)  # bigrams, as pycocoevalcap


def _similarity(hypothesis, reference):
    """Return the mean over n-gram lengths of the clipped cosine, damped by the difference in length."""
    products = np.zeros(len(LENGTHS))
    for ngram, value in hypothesis.values.items():
        other = reference.values.get(ngram, 0.0)
        products[len(ngram) - 1] += min(value, other) * other
    norms = hypothesis.norms * reference.norms
    cosines = np.divide(products, norms, out=products, where=norms > 0)
    return np.mean(cosines) * np.exp(-((hypothesis.length - reference.length) ** 2) / (2 * SIGMA**2))
