"""All settings of the pipeline: the sections of params.yaml, with defaults and descriptions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from lop.settings.pruning import Prune
from lop.settings.recovery import Recovery
from lop.settings.reference import Reference
from lop.settings.searchers import Searcher, Surrogate, listed
from lop.settings.types import (
    Compensate,
    Count,
    Fewer,
    Form,
    Kind,
    NotNegative,
    Number,
    Other,
    Part,
    Positive,
    Ratio,
    RewardKind,
    Runner,
    Scope,
    Score,
    Section,
    Seed,
    Several,
    Start,
    Task,
    Text,
    distinct,
)

Samples = Annotated[int, Field(ge=2)]  # a standard error needs at least two samples


class Model(Section):
    """The model to prune."""

    path: Text = Field(
        "data/reference",
        description="directory of a Hugging Face model with its processor, or with its tokenizer "
        "for a text-only model; or the model's name on the hub",
    )


class Prepare(Section):
    """The samples that all other stages use."""

    source: Text = Field(
        "reference",
        description="`reference`, or a folder or `.parquet`, `.csv`, `.jsonl` or `.txt` file of "
        "your samples",
    )
    window: Samples = Field(
        128,
        description="length of the windows that texts are cut into, in the model's tokens; each "
        "window is a sample",
    )
    forms: Several[Form] = Field(
        ["open"],
        description="forms of the questions of calibration and reward samples; each sample gets "
        "one: `open`, unchanged; `choices`, with lettered choices; `listed`, with one choice per "
        "line; `yes_no`, whether an answer is right",
    )
    seed: Seed = Field(0, description="random seed of the drawn samples")
    calibration: Samples = Field(500, description="number of samples to score units on")
    reward: Samples = Field(500, description="number of samples to judge plans on in searches")
    validation: Samples = Field(
        500, description="number of samples for choices between methods and kits"
    )
    train: Samples | None = Field(
        3000, description="number of samples to train recovery on; `null` draws none"
    )
    benchmark: Samples | None = Field(
        2000, description="number of test questions for the final results; `null` takes all"
    )


class Space(Section):
    """The parts of a model that may be pruned."""

    scope: Scope = Field(
        "ffn", description="sites of the decoder: `ffn` (the paper's), or `ffn+attention`"
    )
    ffn_floor: Part = Field(
        0.1, description="share of its neurons that every FFN keeps; 0 allows empty FFNs"
    )
    attention_floor: Part = Field(
        0.1, description="share of its heads that every attention layer keeps"
    )
    multiple_of: Count = Field(
        1,
        description="FFN widths are multiples of this number, such as 64 on a GPU; it must divide "
        "the dense model's widths",
    )


class Importance(Section):
    """How units are scored."""

    batch_size: Count = Field(100, description="samples in a batch")
    ratios: Several[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.2, 0.3, 0.5],
        description="ratios at which uniform plans of every score are judged on reward samples, "
        "for `score: auto` and `compensate: auto`",
    )
    reward_samples: Samples = Field(200, description="number of reward samples for this judgement")


class Quantizing(Section):
    """How weights are quantized, and which weights besides those of the sites."""

    group: Count = Field(32, description="consecutive weights in a row that share a scale")
    others: list[Other] = Field(
        ["embeddings", "head", "attention"],
        description="weights to quantize besides the sites, if the model has them: `embeddings`, "
        "`head` (the output layer, if it has its own weights), `attention` (if it is not in the "
        "scope), `vision`, `projector`",
    )


class Profile(Quantizing):
    """The reward with one site pruned at a time, for the knapsack; see `search` for the rest."""

    bits: Annotated[list[Fewer], AfterValidator(distinct)] = Field(
        [],
        description="4 and 8: also measure sites and `others` at so many bits per weight, for "
        "plans of units and bits; each number takes as long as the profile without it",
    )

    shares: Several[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        description="shares of its units that a site loses",
    )


class Scored(Section):
    """Which units of a site are removed, and whether a bias compensates for them."""

    score: Score = Field(
        "auto",
        description="score that selects the units to remove: `activation_l2` (the paper's), "
        "`flap`, `magnitude`, `wanda_sp`, or `auto`: the score whose uniform plans lose least on "
        "reward samples",
    )
    compensate: Compensate = Field(
        "auto",
        description="restore the removed units' mean output by a bias on the output projection, "
        "as FLAP does: `true`, `false`, or `auto`: if uniform plans lose less with it",
    )


class Judging(Scored):
    """How plans are judged."""

    reward: RewardKind = Field(
        "loglik",
        description="`loglik`, the mean log-likelihood of the right answers; `accuracy` (the "
        "paper's); `kl`, the divergence from the unpruned model at the answers; or `kl_text`, the "
        "divergence at all text. `kl` and `kl_text` do not need known answers",
    )
    batch_size: Count = Field(40, description="samples in a batch")


class Search(Judging):
    """The search for plans that the predictor is trained on."""

    targets: Several[Ratio] = Field(
        [0.1, 0.2, 0.35, 0.5, 0.65, 0.8],
        description="ratios to search; the predictor's range is from the smallest to the largest",
    )
    seeds: Several[Seed] = Field([0], description="random seeds; each gives one search per target")
    start: Start = Field(
        "knapsack",
        description="plan that a search starts from: `knapsack` or `uniform`",
    )
    settings: Annotated[list[Searcher], Field(min_length=1), BeforeValidator(listed)] = Field(
        [Surrogate(simulations=50)],
        description="settings of a searcher, or a list with the settings of several searchers",
    )
    parts: Count = Field(
        10, description="parts that the samples are split into; the surrogate judges a plan on one"
    )
    hold_out: Part = Field(
        0.3, description="share of the parts that are held out, to check a search's best plans"
    )
    spacing: Part = Field(
        0.05,
        description="also judge the plans that searches found at all other targets, and at ratios "
        "in between that are at most this far apart; 0 turns this off",
    )
    runner: Runner = Field(
        "processes", description="how searches run: `processes`, `threads`, `dask` or `ray`"
    )
    workers: Count = Field(2, description="searches that run at once; with GPUs, at most one each")
    address: Text | None = Field(
        None,
        description="address of a Dask scheduler or Ray head; `null` starts local workers",
    )


class Learned(Section):
    """The selection of the plans that the predictor is trained on, for each target."""

    sure: NotNegative = Field(
        1.0,
        description="train on plans whose gain over the search's first plan, on held-out samples, "
        "is more than this number of standard errors; if there are none, on the base's plan",
    )


class Network(Section):
    """The predictor's network."""

    kind: Kind = Field("transformer", description="`transformer`, `bilstm` or `mlp`")
    hidden: Count = Field(128, description="width of the network")
    depth: Count = Field(2, description="layers of the network")
    heads: Count = Field(4, description="attention heads of the transformer")


class Fit(Section):
    """How the network is trained."""

    epochs: Count = Field(200, description="passes over the samples")
    batch_size: Count = Field(16, description="plans in a batch")
    lr: Positive = Field(0.001, description="peak learning rate of AdamW, with cosine decay")
    weight_decay: NotNegative = Field(0.01, description="weight decay of AdamW")
    smooth: Number = Field(
        0, description="number of budgets to interpolate between neighbouring targets"
    )


class Train(Section):
    """The training of the predictor."""

    seed: Seed = Field(0, description="random seed of weights and batches")
    base: Start = Field(
        "knapsack",
        description="base plans, from which the predictor learns the difference: `knapsack` or "
        "`uniform`",
    )
    samples: Learned = Learned()
    network: Network = Network()
    fit_options: Fit = Fit()


def _task_form(spec: Any) -> str:
    return "path" if isinstance(spec, dict) else "name"


TaskAt = Annotated[
    Annotated[Task, Tag("name")] | Annotated[dict[Task, Text], Tag("path")],
    Discriminator(_task_form),
]


class Evaluate(Section):
    """The evaluation of dense and pruned models, and their registration."""

    tasks: Several[TaskAt] = Field(
        ["lop_vqa"],
        description="tasks to evaluate: names, or `name: path` ([benchmarks](benchmarks.md)); "
        "methods are compared by `lop_vqa`, or by `lop_text` if samples are texts",
    )
    batch_size: Count = Field(64, description="questions in a batch")
    latency_samples: Count = Field(20, description="single questions to measure latency with")
    registers: bool = Field(
        True,
        alias="register",
        description="register LOP's checkpoints as versions of `lop-pruned-<model>` in MLflow's "
        "registry; baselines are logged as runs only",
    )
    register_copied_mb: NotNegative = Field(
        512,
        description="larger checkpoints are not copied to the registry; their versions store the "
        "path",
    )
    workers: Count = Field(
        2,
        description="models evaluated at once, each in a process of its own; with GPUs, at most "
        "one each",
    )


class Promote(Section):
    """The comparison of challenger and champion, on the validation samples."""

    ratios: Several[Ratio] = Field(
        [0.2, 0.25, 0.3, 0.4, 0.5, 0.55],
        description="ratios at which challenger and champion are compared",
    )
    reward: RewardKind = Field(
        "loglik", description="reward to compare them by: `loglik` or `accuracy`"
    )


class Params(Section):
    """All settings in params.yaml, with one section for each stage."""

    model: Model = Model()
    prepare: Prepare = Prepare()
    space: Space = Space()
    importance: Importance = Importance()
    profile: Profile = Profile()
    search: Search = Search()
    train: Train = Train()
    recover: Recovery = Recovery()
    prune: Prune = Prune()
    evaluate: Evaluate = Evaluate()
    promote: Promote = Promote()
    reference: Reference = Reference()
