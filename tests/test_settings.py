"""Typed settings: every wrong value has its place in one line, and all defaults are said once."""

import inspect
from pathlib import Path
from typing import get_args

import pytest

from lop.cli.options import COMMANDS
from lop.data.forms import FORMS as QUESTION_FORMS
from lop.errors import LopError
from lop.evaluation.tasks.benchmarks import BENCHMARKS
from lop.importance import RANKINGS
from lop.methods import NAMES
from lop.predictor import NETWORKS
from lop.reference import model as reference
from lop.reference.training import ReferenceParams
from lop.reward import KINDS
from lop.search import SEARCHERS
from lop.search.base import MOVES
from lop.settings import Params, params, read, types
from lop.settings.__main__ import page
from lop.steps.pruning import FORMATS

WRONG = [
    ("search: {foo: 1}", "search.foo: unknown; expected one of score, compensate"),
    ("serach: {}", "serach: unknown; expected one of model, prepare"),
    ("search:", "search: expected a mapping, the settings of Search, got None"),
    ("search: {settings: {searcher: mcts}}", "search.settings.simulations: missing"),
    ("search: {settings: {simulations: 0}}", "search.settings.simulations: expected at least 1"),
    ("search: {settings: {simulations: 5, sped: 1}}", "search.settings.sped: unknown"),
    ("search: {settings: {simulations: 5, searcher: x}}", "searcher: expected 'surrogate'"),
    ("search: {settings: []}", "search.settings: expected at least one value"),
    ("search: {settings: [{simulations: 1}, {simulations: .nan}]}", "settings.1.simulations: exp"),
    ("search: {workers: 0}", "search.workers: expected at least 1, got 0"),
    ("search: {batch_size: '5'}", "search.batch_size: expected a valid integer, got '5'"),
    ("search: {batch_size: true}", "search.batch_size: expected a valid integer, got True"),
    ("search: {batch_size: 1.5}", "search.batch_size: expected a valid integer, got 1.5"),
    ("search: {compensate: 1}", "search.compensate: expected a valid boolean, got 1"),
    ("search: {targets: []}", "search.targets: expected at least one value"),
    ("search: {targets: 0.5}", "search.targets: expected a valid list, got 0.5"),
    ("search: {targets: [0.2, .nan]}", "search.targets: expected a finite number, got nan"),
    ("search: {targets: [1]}", "search.targets: expected less than 1, got 1"),
    ("search: {targets: [0.2, 0.2000001]}", "search.targets: 0.2 is given twice"),
    ("search: {seeds: [-1]}", "search.seeds: expected at least 0, got -1"),
    ("search: {seeds: [3, 3]}", "search.seeds: 3 is given twice"),
    ("search: {score: mean_activation}", "search.score: expected 'auto', 'flap', 'activation_l2'"),
    ("search: {reward: x}", "search.reward: expected 'loglik', 'accuracy', 'kl'"),
    ("search: {runner: magic}", "search.runner: expected 'processes', 'threads', 'dask' or 'ray'"),
    ("search: {start: random}", "search.start: expected 'uniform' or 'knapsack'"),
    ("train: {fit_options: {epochs: 0}}", "train.fit_options.epochs: expected at least 1"),
    ("train: {fit_options: {lr: .inf}}", "train.fit_options.lr: expected a finite number"),
    ("train: {samples: {sure: -1}}", "train.samples.sure: expected at least 0, got -1"),
    ("train: {network: {kind: x}}", "train.network.kind: expected 'transformer', 'bilstm' or"),
    ("prune: {methods: [magic]}", "prune.methods: expected 'lop', 'knapsack'"),
    ("prune: {format: zip}", "prune.format: expected 'per_layer' or 'padded', got 'zip'"),
    ("space: {multiple_of: 0}", "space.multiple_of: expected at least 1"),
    ("evaluate: {tasks: [smell]}", "evaluate.tasks: expected 'lop_vqa', 'lop_text'"),
    ("evaluate: {tasks: [lop_vqa, {mme: 3}]}", "evaluate.tasks.1.mme: expected a valid string"),
    ("evaluate: {register: maybe}", "evaluate.register: expected a valid boolean"),
    ("profile: {shares: [0]}", "profile.shares: expected greater than 0, got 0"),
    ("importance: {batch_size: 0}", "importance.batch_size: expected at least 1"),
    ("prepare: {calibration: -5}", "prepare.calibration: expected at least 2, got -5"),
    ("promote: {ratios: []}", "promote.ratios: expected at least one value"),
    ("model: {path: ''}", "model.path: expected text, got none"),
    ("reference: {stages: [{steps: 1}]}", "reference.stages.0.knowledge_share: missing"),
    ("- 1", "expected a mapping of sections, got list"),
    ("", "expected a mapping of sections, got NoneType"),
    ("a: b: c", "not YAML: mapping values are not allowed here, line 1"),
    ("search:\n  workers: 1\n  workers: 2", "key 'workers' is given twice, line 2"),
    ("\x08", "special characters are not allowed"),
    ("[" * 3000, "RecursionError"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text[:40] for text, _ in WRONG])
def test_a_wrong_setting_is_named_with_its_place(text, message, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(LopError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "directory"])
def test_a_file_that_cannot_be_read_is_named(content, tmp_path):
    path = tmp_path / "params.yaml"
    if content == "directory":
        path.mkdir()
    elif content:
        path.write_bytes(content)
    with pytest.raises(LopError, match="params.yaml: "):
        read(path)


def test_what_is_left_out_has_its_default(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("search: {settings: {simulations: 7}}\ntrain: {fit_options: {lr: 1e-3}}")
    found = read(path)
    assert found.search.settings[0].model_dump(exclude_unset=True) == {
        "searcher": "surrogate",
        "simulations": 7,
    }
    assert found.search.targets == Params().search.targets
    assert found.train.fit_options.lr == 0.001, "a number, as DVC reads it"


def test_params_yaml_says_the_defaults():
    assert read("params.yaml").model_dump() == Params().model_dump()


def test_the_page_of_settings_is_the_models():
    assert Path("docs/params.md").read_text() == page(), "python -m lop.settings > docs/params.md"


@pytest.mark.parametrize(
    ("names", "known"),
    [
        (types.Score, {"auto", *RANKINGS}),
        (types.RewardKind, KINDS),
        (types.Method, NAMES),
        (types.Format, FORMATS),
        (types.SearcherName, set(SEARCHERS) - {"carried"}),  # a step of its own
        (types.Kind, NETWORKS),
        (types.Move, MOVES),
        (types.Form, QUESTION_FORMS),
        (types.OwnTask, BENCHMARKS),
    ],
)
def test_names_are_the_librarys(names, known):
    assert set(get_args(names)) == set(known)


@pytest.mark.parametrize("model", get_args(get_args(params.Searcher)[0]))
def test_a_searchers_settings_are_its_own(model):
    name = get_args(model.model_fields["searcher"].annotation)[0]
    own = list(inspect.signature(SEARCHERS[name]).parameters.values())[4:]
    defaults = {each.name: each.default for each in own if each.name != "shares"}
    typed = model(searcher=name, simulations=1).model_dump(exclude={"searcher", "simulations"})
    assert typed == defaults


def test_the_reference_models_defaults_are_its_own():
    given = ReferenceParams.from_dict(params.Reference().model_dump())
    assert given == ReferenceParams()
    assert given.shape == reference.Shape()


def test_options_and_settings_share_their_defaults():
    def default(command, name):
        return COMMANDS[command].model_fields[name].default

    settings = Params()
    for name in ("calibration", "reward", "validation", "benchmark", "seed"):
        assert default("prepare", name) == getattr(settings.prepare, name)
    assert default("importance", "batch_size") == settings.importance.batch_size
    for command in ("search", "profile"):
        for name in ("score", "compensate", "reward", "batch_size"):
            assert default(command, name) == getattr(settings.search, name)
    assert default("search", "simulations") == settings.search.settings[0].simulations
    assert default("train", "sure") == settings.train.samples.sure
    for name in ("ratios", "reward_samples"):
        assert default("importance", name) == getattr(settings.importance, name)
    for name in ("epochs", "smooth"):
        assert default("train", name) == getattr(settings.train.fit_options, name)
    for command in ("evaluate", "compare"):
        assert default(command, "batch_size") == settings.evaluate.batch_size
