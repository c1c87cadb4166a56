"""Real, tiny parts: a randomly initialised Qwen2.5-VL with its processor, and drawn samples."""

import os
import signal

# the models are tiny: a second thread only waits, and on a busy machine for long
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
# a shell's background job ignores Ctrl-C, and so would the programs that tests stop with it
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import io

import numpy as np
import pandas as pd
import pytest
import torch
from clone import clone  # noqa: F401, a fixture
from PIL import Image
from xdist.scheduler.loadscope import LoadScopeScheduling

from lop.models.space import find_ffns
from lop.reference import model as reference

# Directories whose tests share fixtures that take minutes: each is one process's work. The first
# listed begins first. (pytest-xdist's own groups by mark do not work with pytest 9.2.)
TOGETHER = ("tests/flows", "tests/serving")


class ByFile(LoadScopeScheduling):
    """Gives a process of `pytest -n` a file of tests at a time, or a directory of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((place for place in TOGETHER if file.startswith(place)), file)


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not item.nodeid.startswith(TOGETHER[0]))  # files stay together


SHAPE = reference.Shape(
    layers=3, hidden=32, ffn=40, vocab=300, vision_layers=1, vision_hidden=32, vision_ffn=32
)


def make_samples(count: int = 12) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(buffer, "PNG")
        rows.append(
            {
                "id": f"s{i}",
                "image_id": f"i{i // 2}",
                "images": [{"bytes": buffer.getvalue(), "path": None}],
                "question": ["what is it?", "is there a red shape in it?"][i % 2],
                "choices": None,
                "answer": ["yes", "no", "circle"][i % 3],
                "category": ["a", "b"][i % 2],
            }
        )
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def samples():
    return make_samples()


@pytest.fixture(scope="session")
def processor(samples):
    tokenizer = reference.build_tokenizer([*samples["question"], *samples["answer"]], SHAPE.vocab)
    return reference.build_processor(tokenizer)


@pytest.fixture
def model(processor):
    built = reference.build_model(processor.tokenizer, SHAPE, seed=0).eval()
    with torch.no_grad():  # weights large enough for pruning to change something
        for ffn in find_ffns(built):
            for linear in ffn.maps:
                linear.weight.mul_(10)
    return built


@pytest.fixture(scope="session")
def scores():
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(SHAPE.ffn, generator=generator) for _ in range(SHAPE.layers)]


@pytest.fixture
def model_dir(model, processor, tmp_path):
    from lop.models.checkpoint import save

    save(model, processor, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def reference_model():
    from lop.models.checkpoint import load, load_processor

    return load("data/reference"), load_processor("data/reference")


@pytest.fixture(scope="session")
def reference_samples():
    from lop.reference import easyvqa, knowledge

    tables = [easyvqa.load("holdout"), knowledge.load("validation")]
    return pd.concat([t.sample(20, random_state=0) for t in tables], ignore_index=True)
