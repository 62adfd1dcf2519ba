"""The benchmark of the extraction, and the random models of the original sizes that it can measure."""

import re

import pytest
from PIL import Image
from small_workflow import ROOT
from tiny_models import write_tiny_model

from bye.errors import ByeError
from bye.models import load_model
from bye.tools import budget
from bye.tools.bench import WAYS, bench
from bye.tools.twin import write_twin


def test_the_benchmark_tells_speed_and_memory_of_each_way(tmp_path, capsys):
    folder = write_tiny_model("internvl", tmp_path / "m", layers=2)
    bench([folder], n=4, batch_size=4, rounds=2)
    heading, *lines, last = capsys.readouterr().out.splitlines()
    assert heading == f"{folder}: 4 samples, batches of 4, median of 2 runs"
    pattern = r" +samples/s +[\d.]+ x the time of plain +peak memory -?\d+ MB above the loaded model"
    for way, line in zip(WAYS, lines, strict=True):
        assert re.fullmatch(rf"  {way} +[\d.]+{pattern}", line), line
    assert "times as fast as the authors' way" in last


@pytest.mark.parametrize("family", ["llava_next", "qwen3_vl"])
def test_the_benchmark_wants_one_input_size(family, tmp_path):
    write_tiny_model(family, tmp_path / "m", layers=2)
    with pytest.raises(ByeError, match=rf"of one input size, and .*/m \({family}\) takes images of any; give another"):
        bench([tmp_path / "m"])


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_a_twin_has_the_originals_size_and_runs_in_the_middle(family, tmp_path):
    mini = ROOT / "base_models" / f"{family}-mini"
    write_twin(mini, tmp_path / "true", weights=False)
    true = load_model(tmp_path / "true", weights=False)
    sizes = budget.sizes_of(true, 0, true.n_image_tokens)
    assert round(sizes.parameters / 1e9, 2) == {"llava": 7.06, "internvl": 8.08}[family]
    assert true.grid() == {"llava": (24, 24), "internvl": (16, 16)}[family]
    write_twin(mini, tmp_path / "mid", size="mid")
    mid = load_model(tmp_path / "mid")
    (features,) = mid.image_features(mid.pixels([Image.new("RGB", (50, 40))]))
    assert (mid.n_layers, *features.shape) == (12, 576, 384)
    with pytest.raises(ByeError, match="size 'huge' is unknown; choose one of true, mid"):
        write_twin(mini, tmp_path / "huge", size="huge")


def test_a_twin_is_of_a_family_whose_sizes_are_known(tmp_path):
    write_tiny_model("qwen3_vl", tmp_path / "m", layers=2)
    with pytest.raises(ByeError, match="no known sizes for .*/m of family 'qwen3_vl'; give llava or internvl"):
        write_twin(tmp_path / "m", tmp_path / "out")
    with pytest.raises(ByeError, match="there is no model folder .*/none; give one, such as base_models/llava-mini"):
        write_twin(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ByeError, match="has no config.json; give a folder in the layout of transformers"):
        write_twin(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
