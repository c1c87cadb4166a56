import copy
import json

import numpy as np
import pytest
import torch
from conftest import SHAPE

from lop.errors import LopError
from lop.models.checkpoint import load, save
from lop.models.fingerprints import fingerprint
from lop.models.space import find_space
from lop.plan import FLOORS, Plan, Space
from lop.pruning import masked, prune
from lop.recovery import training
from lop.recovery.files import check_recovered, save_recovered
from lop.recovery.lessons import Lessons
from lop.recovery.loss import loss_of
from lop.recovery.state import STATE
from lop.recovery.student import Student
from lop.reward import Reward
from lop.reward.captured import capture, hidden_at
from lop.settings import Recovery

BOTH = "ffn+attention"
QUICK = Recovery(steps=30, batch_size=6, lr=0.003, low=0.5, high=0.8, right=1.0)


def uniform(model):
    space = find_space(model)
    return lambda ratio: Plan.uniform(space, ratio)


def scores_of(space):
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(n, generator=generator) for n in space.units]


def run(model, processor, samples, scores, settings=QUICK, folder=None):
    """A recovery of a copy of the model, and its curve."""
    trained = copy.deepcopy(model)
    plans = [uniform(model)]
    curve = training.recover(trained, processor, samples, scores, plans, settings, folder)
    return trained, curve


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kept", [(40, 40, 40), (10, 33, 7), (0, 20, 40)])
def test_a_student_computes_what_the_masked_model_does(model, processor, samples, scores, kept):
    plan = Plan(Space.ffns((40, 40, 40), floor=0), kept)
    batch = capture(model, processor, samples, 12, everywhere=True)[0].batch
    with masked(model, plan, scores), torch.no_grad():
        expected = hidden_at(model, batch)
    before = weights(model)
    with torch.no_grad(), Student(model, scores) as student:
        student.show(plan)
        hidden, _ = student(batch)
        student.show(student.space.dense)
        dense, _ = student(batch)
    torch.testing.assert_close(hidden, expected)
    with torch.no_grad():
        torch.testing.assert_close(dense, hidden_at(model, batch))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_student_drops_heads_and_layers(model, processor, samples):
    space = find_space(model, BOTH, dict.fromkeys(FLOORS, 0.0))
    scores, heads = scores_of(space), space.kinds
    kept = [n if i < 2 else (0 if i < 4 else n // 2) for i, n in enumerate(space.units)]
    plan = Plan(space, tuple(kept))  # the second layer goes
    assert heads[2:4] == ("attention", "ffn")
    batch = capture(model, processor, samples, 12, everywhere=True)[0].batch
    small = prune(copy.deepcopy(model), plan, scores, scope=BOTH)
    with torch.no_grad():
        expected = hidden_at(small, batch)
    with torch.no_grad(), Student(model, scores, BOTH) as student:
        student.show(plan)
        hidden, layers = student(batch, layered=True)
    torch.testing.assert_close(hidden, expected)
    assert set(layers) == {0, 2}


def test_a_gradient_reaches_the_kept_units_of_the_shared_weights(model, processor, samples, scores):
    plan = Plan.uniform(find_space(model), 0.5)
    with Student(model, scores) as student:
        lesson = Lessons(student, model, processor, samples, 12, 0).parts[0][0]
        student.show(plan)
        loss_of(model, lesson, *student(lesson.batch)).text.backward()
        name = f"{student.sites[0].name}.down_proj.weight"
        gradient = student.trained[name].grad
    assert gradient[:, : plan.kept[0]].abs().min() > 0
    assert gradient[:, plan.kept[0] :].abs().max() == 0


def test_the_teacher_is_the_model_itself(model, processor, samples, scores):
    with Student(model, scores) as student:
        lesson = Lessons(student, model, processor, samples, 12, 0, layered=True).parts[0][0]
        with student.dense():
            found = loss_of(model, lesson, *student(lesson.batch, layered=True))
    assert found.answers == pytest.approx(0, abs=1e-6)
    assert found.text == pytest.approx(0, abs=1e-6)
    assert found.hidden == pytest.approx(0, abs=1e-9)
    assert found.right > 0.5  # an untrained model's answers


@pytest.mark.parametrize("rank", [None, 4])
def test_recovery_helps_every_budget_and_keeps_the_whole(model, processor, samples, scores, rank):
    more = QUICK.model_copy(update={"rank": rank, "lr": 0.003 if rank is None else 0.02})
    trained, curve = run(model, processor, samples, scores, more)
    assert list(curve["step"]) == list(range(1, 31))
    assert set(np.sign(curve["ratio"])) == {0, 1}  # the whole model is in the draw
    assert curve["lr"].iloc[-1] < curve["lr"].max() == pytest.approx(more.lr, rel=0.05)
    assert trained.state_dict().keys() == model.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in trained.parameters())
    for ratio in (0.5, 0.6, 0.8):
        before, after = (_reward(of, processor, samples, scores, ratio) for of in (model, trained))
        assert after > before, ratio
    whole = [_reward(of, processor, samples, scores, 0) for of in (model, trained)]
    assert whole[1] > whole[0] - 0.01


def _reward(model, processor, samples, scores, ratio):
    with Reward(copy.deepcopy(model), processor, samples, scores) as reward:
        return reward(Plan.uniform(reward.space, ratio))


def test_only_the_decoder_learns(model, processor, samples, scores):
    trained, _ = run(model, processor, samples, scores)
    changed = {n for n, t in weights(model).items() if not torch.equal(t, trained.state_dict()[n])}
    decoder = {n for n in model.state_dict() if "language_model" in n and "embed" not in n}
    assert changed == decoder


@pytest.mark.parametrize("rank", [None, 4])
def test_a_killed_recovery_goes_on_and_ends_the_same(
    model, processor, samples, scores, tmp_path, monkeypatch, rank
):
    settings = QUICK.model_copy(update={"rank": rank, "hidden": 0.1})
    expected, curve = run(model, processor, samples, scores, settings)
    monkeypatch.setattr("lop.recovery.state.EVERY", 0.0)
    step, killed = training._Run.step, []

    def dies(self, number):
        if number == 17 and not killed:
            killed.append(number)
            raise KeyboardInterrupt
        assert number >= 17 or not killed
        return step(self, number)

    monkeypatch.setattr(training._Run, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(model, processor, samples, scores, settings, tmp_path)
    found, again = run(model, processor, samples, scores, settings, tmp_path)
    assert killed
    assert again.equals(curve)
    assert fingerprint(found) == fingerprint(expected)
    other = settings.model_copy(update={"seed": 1})
    monkeypatch.setattr(training._Run, "step", step)
    _, different = run(model, processor, samples, scores, other, tmp_path)
    assert len(different) == len(curve)
    assert not different.equals(curve)  # what other settings left is not gone on with


def test_accumulation_and_checkpointing_change_memory_alone(model, processor, samples, scores):
    plain = QUICK.model_copy(update={"steps": 3})
    _, curve = run(model, processor, samples, scores, plain)
    again = plain.model_copy(update={"checkpointing": True})
    _, twice = run(model, processor, samples, scores, again)
    np.testing.assert_allclose(twice["loss"], curve["loss"], rtol=1e-4)
    parts = plain.model_copy(update={"batch_size": 3, "accumulation": 2})
    _, split = run(model, processor, samples, scores, parts)
    assert len(split) == 3


def test_a_loss_that_is_no_number_stops_and_keeps_what_was(
    model, processor, samples, scores, tmp_path
):
    wild = QUICK.model_copy(update={"lr": 1e20})
    with pytest.raises(
        LopError, match=r"the loss is (nan|inf) at step \d+: set a smaller .* the state of step"
    ):
        run(model, processor, samples, scores, wild, tmp_path)
    assert (tmp_path / STATE).exists()


def test_a_budget_out_of_range_is_told_before_anything(model, processor, samples, scores):
    with pytest.raises(LopError, match="ratio 0.95 cannot be met: this model reaches 0 to 0.9"):
        run(model, processor, samples, scores, QUICK.model_copy(update={"high": 0.95}))


@pytest.mark.parametrize("bf16", [False, True])
def test_bfloat16_weights_stay_bfloat16(model, processor, samples, scores, bf16):
    settings = QUICK.model_copy(update={"bf16": bf16})
    trained, curve = run(model.bfloat16(), processor, samples, scores, settings)
    assert {parameter.dtype for parameter in trained.parameters()} == {torch.bfloat16}
    assert np.isfinite(curve["loss"]).all()


def test_what_is_written_says_what_it_was(model, processor, tmp_path):
    record = {"recovered_from": "abc", "samples": 3}
    save_recovered(tmp_path / "new", model, processor, record)
    assert json.loads((tmp_path / "new" / "recovery.json").read_text())["samples"] == 3
    assert fingerprint(load(tmp_path / "new")) == fingerprint(model)
    check_recovered(tmp_path / "new", "abc")
    with pytest.raises(LopError, match="recovered from model abc, this model is def"):
        check_recovered(tmp_path / "new", "def")
    save(model, processor, tmp_path / "other")
    with pytest.raises(LopError, match="no recovery.json; expected a model that"):
        check_recovered(tmp_path / "other", "abc")


def test_the_loss_of_some_places_is_that_of_the_whole_batch_on_average(model, processor, samples):
    with Student(model, [torch.ones(SHAPE.ffn)] * SHAPE.layers) as student:
        lessons = Lessons(student, model, processor, samples, 12, 0)
        (whole,) = lessons.at(0, 0)
        rng = np.random.default_rng(0)
        student.show(Plan.uniform(student.space, 0.5))
        with torch.no_grad():
            expected = loss_of(model, whole, *student(whole.batch)).text
            drawn = [whole.some(20, rng) for _ in range(60)]
            found = [loss_of(model, some, *student(some.batch)).text for some in drawn]
    assert (
        {len(some.hidden) for some in drawn} == {20} == {len(some.batch.tokens) for some in drawn}
    )
    assert torch.stack(found).mean() == pytest.approx(float(expected), rel=0.1)
    assert whole.some(len(whole.hidden), rng) is whole
