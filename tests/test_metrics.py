"""Accuracy, ASR and detection metrics by hand; CIDEr and its tokens against pycocoevalcap's numbers."""

import json
from pathlib import Path

import numpy as np
import pytest

from bye.metrics.accuracy import accuracy, is_correct
from bye.metrics.asr import is_target
from bye.metrics.cider import cider, tokenize
from bye.metrics.detection import auroc, average_precision, detection_metrics

FIXTURE = json.loads((Path(__file__).parent / "fixtures" / "cider.json").read_text(encoding="utf-8"))


# ---- accuracy and ASR ----------------------------------------------------------------------------------------------


def test_accuracy_is_exact_but_for_case_space_and_full_stop():
    pairs = [("A", "a"), (" B\n", "B"), ("C.", "C"), ("yes", "Yes."), ("the answer is D", "D"), ("", "E"), ("F..", "F")]
    assert list(is_correct(*zip(*pairs, strict=True))) == [True] * 4 + [False] * 3
    assert accuracy(["A", "B", "C"], ["a", "b", "d"]) == pytest.approx(200 / 3)


def test_accuracy_of_unlike_lists():
    with pytest.raises(ValueError, match="zip"):
        accuracy(["A"], ["A", "B"])
    with pytest.raises(ValueError, match="undefined"):
        accuracy([], [])


def test_asr_counts_the_whole_target_only():
    outputs = ["Backdoor Attack!", "backdoor attack! ", "Backdoor Attack", "A dog. Backdoor Attack!", ""]
    assert list(is_target(outputs, "Backdoor Attack!")) == [True, True, False, False, False]


# ---- CIDEr ---------------------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_stanford_tokenizer():
    captions = [*FIXTURE["predictions"], *sum(FIXTURE["references"], [])]
    tokens = [*FIXTURE["prediction_tokens"], *sum(FIXTURE["reference_tokens"], [])]
    assert len(captions) > 100
    for caption, expected in zip(captions, tokens, strict=True):
        assert " ".join(tokenize(caption)) == expected, caption


def test_cider_is_that_of_pycocoevalcap():
    score, scores = cider(FIXTURE["predictions"], FIXTURE["references"])
    assert score == pytest.approx(FIXTURE["score"], abs=1e-12)
    np.testing.assert_allclose(scores, FIXTURE["scores"], atol=1e-12)


# What PTBTokenizer of pycocoevalcap 1.2 (with Java 17) answered.
@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("A man's dog, which can't swim, isn't here.", "a man 's dog which ca n't swim is n't here"),
        ("Two dogs -- one brown, one white-ish -- play...", "two dogs one brown one white-ish play"),
        ("He's got 1,000 balls & 2.5 kg; it costs $3.50.", "he 's got 1,000 balls & 2.5 kg it costs $ 3.50"),
        ("The U.S. flag flies at 5 p.m. on St. John's street.", "the u.s. flag flies at 5 p.m. on st. john 's street"),
        ("the dogs' ball [is] {red} <b>", "the dogs ball -lsb- is -rsb- -lcb- red -rcb- <b>"),
        ("A café with naïve girls – and boys — “quoted” ‘single’ …", "a café with naïve girls and boys quoted single"),
        ("wait... what?! Yes!!!", "wait what ?! yes !!!"),
        ("'Tis the season; 'twas great", "'t is the season 't was great"),
        ("they're we've I'll I'd don't cannot gonna", "they 're we 've i 'll i 'd do n't can not gon na"),
        ("wo n't shouldn't've", "wo n't should n't 've"),
        ("'quoted' 'word", "quoted word"),
        ("½ cup, 24/7", "1/2 cup 24/7"),
        ("the man’s hat isn’t “nice”", "the man 's hat is n't nice"),
        ("", ""),
    ],
)
def test_tokens_of_single_captions(caption, tokens):
    assert " ".join(tokenize(caption)) == tokens


def test_cider_of_two_images_by_hand():
    # One reference each, no word in common: every n-gram has idf ln 2. The first prediction is its reference, whose
    # four cosines are 1; the second shares nothing with its own.
    score, scores = cider(["a b c d", "x"], [["a b c d"], ["e f g h"]])
    assert list(scores) == pytest.approx([10.0, 0.0])
    assert score == pytest.approx(5.0)
    # Half the words: unigrams a b of a b c d: 2 / (sqrt 2 * sqrt 4); bigram ab of three: 1 / sqrt 3; no longer ones.
    # The length (counted in bigrams) differs by two.
    _, scores = cider(["a b", "x"], [["a b c d"], ["e f g h"]])
    assert scores[0] == pytest.approx(10 * (1 / np.sqrt(2) + 1 / np.sqrt(3)) / 4 * np.exp(-(2**2) / (2 * 6**2)))


def test_cider_of_one_image_is_zero():
    assert cider(["a dog"], [["a dog"]])[0] == 0  # every n-gram is in every image: idf 0


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], []), (["a"], [[]])])
def test_cider_of_nothing(predictions, references):
    with pytest.raises(ValueError, match="at least one"):
        cider(predictions, references)


# ---- detection -----------------------------------------------------------------------------------------------------


def test_detection_metrics_by_hand():
    poisoned = np.array([True, True, True, False, False, False, False, False])
    flagged = np.array([True, True, False, True, False, False, False, False])
    scores = np.array([1.0, 1.5, 4.0, 2.0, 4.1, 4.2, 3.9, 4.0])
    result = detection_metrics(poisoned, flagged, scores)
    assert result["precision"] == pytest.approx(2 / 3)
    assert result["recall"] == pytest.approx(2 / 3)
    assert result["f1"] == pytest.approx(2 / 3)
    # Pairs in the right order: 1.0 and 1.5 beat all five; 4.0 beats 4.1 and 4.2 and ties with 4.0.
    assert result["auroc"] == pytest.approx((5 + 5 + 2.5) / 15)
    # Recall 1/3 at precision 1, 2/3 at 1, 1 at 3/6 (the tie at 4.0 brings one of each, after 2.0 and 3.9).
    assert result["average_precision"] == pytest.approx((1 + 1 + 3 / 6) / 3)
    assert (result["n_flagged"], result["n_poisoned"], result["n_samples"]) == (3, 3, 8)
    assert result["clean_lost"] == pytest.approx(1 / 5)


def test_undefined_metrics_are_none():
    nobody, all_nan = np.zeros(4, dtype=bool), np.full(4, np.nan)
    some = np.array([True, False, False, False])
    untouched = detection_metrics(nobody, some, np.arange(4.0))
    assert untouched["recall"] is None
    assert untouched["auroc"] is None
    assert (untouched["precision"], untouched["f1"]) == (0, 0)
    missed = detection_metrics(some, nobody, all_nan)
    assert missed["precision"] is None
    assert missed["auroc"] is None
    assert (missed["recall"], missed["f1"]) == (0, 0)
    assert detection_metrics(nobody, nobody, all_nan)["f1"] is None
    assert untouched["clean_lost"] == 1 / 4 and detection_metrics(~nobody, some, all_nan)["clean_lost"] is None


def test_ranking_metrics_at_their_ends():
    positive = np.array([True, True, False, False])
    assert auroc(positive, np.array([4.0, 3, 2, 1])) == 1
    assert auroc(positive, np.array([1.0, 2, 3, 4])) == 0
    assert auroc(positive, np.ones(4)) == 0.5
    assert average_precision(positive, np.array([4.0, 3, 2, 1])) == 1
    assert average_precision(positive, np.ones(4)) == 0.5
