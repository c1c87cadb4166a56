"""Every setting of the pipeline: the sections of params.yaml, with their defaults and meanings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from lop.settings.pruning import Prune
from lop.settings.recovery import Recovery
from lop.settings.reference import Reference
from lop.settings.types import (
    Compensate,
    Count,
    Fewer,
    Form,
    Kind,
    Move,
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
    Share,
    Start,
    Task,
    Text,
    distinct,
)

Samples = Annotated[int, Field(ge=2)]  # fewer have no standard error


class Model(Section):
    """The model to prune."""

    path: Text = Field(
        "data/reference",
        description="directory of a Hugging Face model with its processor, or tokenizer where it "
        "reads text alone, or a hub's name for one",
    )


class Prepare(Section):
    """Which samples all else sees."""

    source: Text = Field(
        "reference",
        description="`reference`, or a folder or `.parquet`, `.csv`, `.jsonl` or `.txt` file of "
        "your samples",
    )
    window: Samples = Field(
        128,
        description="tokens that texts are cut into, by the model's tokenizer; each is a sample",
    )
    forms: Several[Form] = Field(
        ["open"],
        description="how calibration and reward samples are asked, each in one of them: `open`, as "
        "they stand; `choices`, with lettered choices; `listed`, with choices a line each; "
        "`yes_no`, whether an answer is right",
    )
    seed: Seed = Field(0, description="which samples are drawn")
    calibration: Samples = Field(500, description="how many samples neurons are scored on")
    reward: Samples = Field(500, description="how many samples searches judge plans on")
    validation: Samples = Field(
        500, description="how many samples choices between methods are made on"
    )
    train: Samples | None = Field(
        3000, description="how many samples recovery learns from; `null` draws none"
    )
    benchmark: Samples | None = Field(
        2000, description="how many test questions the final numbers are from; `null` takes all"
    )


class Space(Section):
    """What may be cut from a model."""

    scope: Scope = Field(
        "ffn", description="sites of the decoder: `ffn` (the paper's), or `ffn+attention`"
    )
    ffn_floor: Part = Field(
        0.1, description="share of its neurons that every FFN keeps; 0 lets FFNs be skipped"
    )
    attention_floor: Part = Field(0.1, description="likewise, of attention's heads")
    multiple_of: Count = Field(
        1, description="FFN widths are multiples of it, such as 64 on a GPU; it divides the model's"
    )


class Importance(Section):
    """How units are scored."""

    batch_size: Count = Field(100, description="samples at once")
    ratios: Several[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.2, 0.3, 0.5],
        description="at which uniform plans of every score are judged on reward samples, for "
        "`score: auto` and `compensate: auto`",
    )
    reward_samples: Samples = Field(200, description="how many reward samples they are judged on")


class Quantizing(Section):
    """How weights are quantized, and which besides the sites'."""

    group: Count = Field(32, description="weights in a row that share a scale")
    others: list[Other] = Field(
        ["embeddings", "head", "attention"],
        description="quantized besides the sites, where the model has them: `embeddings`, `head` "
        "(the output's, where they are its own), `attention` (where the scope leaves it out), "
        "`vision`, `projector`",
    )


class Profile(Quantizing):
    """The reward with each site alone cut, for the knapsack; the rest is as in `search`."""

    bits: Annotated[list[Fewer], AfterValidator(distinct)] = Field(
        [],
        description="4 and 8: sites and others are measured at so many bits a weight too, for "
        "plans of units and bits; this takes as long again for each",
    )

    shares: Several[Annotated[float, Field(gt=0, lt=1)]] = Field(
        [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
        description="shares of its units that a site loses",
    )


class Searching(Section):
    """A searcher's settings: what all of them have."""

    simulations: Count = Field(description="plans judged a search")


class Surrogate(Searching):
    """A model of the reward, learned from plans that are judged by a part of the samples each."""

    searcher: Literal["surrogate"] = "surrogate"
    step: Share = Field(0.1, description="how far ratios are from those of the best plan at most")
    move: Move = Field("mixed", description="`shake`, `transfer` or `mixed`")
    exploration: NotNegative = Field(
        1.0, description="standard deviations that a plan is given above its expected reward"
    )


class Local(Searching):
    """Steps up and down around the current plan, a site at a time."""

    searcher: Literal["local"]
    step: Share = Field(0.1, description="share of a site's units that moves at first …")
    step_min: Annotated[float, Field(gt=0, le=1)] = Field(0.01, description="… and at the end")


class Mcts(Searching):
    """A search tree."""

    searcher: Literal["mcts"]
    children: Count = Field(4, description="children a node gets")
    exploration: NotNegative = Field(
        0.1, description="UCB's constant, for rewards scaled to [0, 1]"
    )
    step: Share = Field(
        0.1, description="how far a child's ratios are from its parent's at most, at the root"
    )
    step_decay: Share = Field(0.9, description="the step shrinks by this factor a level …")
    step_min: Share = Field(0.01, description="… down to this")
    move: Move = Field("shake", description="how a child is made: `shake`, `transfer` or `mixed`")
    value: Literal["mean", "max"] = Field(
        "mean", description="what a node is worth: the `mean` or `max` of the rewards below it"
    )


class Evolution(Searching):
    """A population of plans."""

    searcher: Literal["evolution"]
    population: Count = Field(16, description="plans that live on")
    crossover: Share = Field(0.3, description="chance of a second parent")
    step: Annotated[float, Field(gt=0, le=1)] = Field(
        0.3, description="how far a child's ratios move at first …"
    )
    step_end: Annotated[float, Field(gt=0, le=1)] = Field(0.05, description="… and at the end")
    move: Move = Field("mixed", description="`shake`, `transfer` or `mixed`")


class Random(Searching):
    """Plans drawn at random."""

    searcher: Literal["random"]
    step: Share = Field(0.5, description="how far the plans are from the first one at most")


class Uniform(Searching):
    """The uniform plan alone."""

    searcher: Literal["uniform"]


class Knapsack(Searching):
    """The plan solved from a profile, alone."""

    searcher: Literal["knapsack"]


def _listed(values: Any) -> Any:
    """One searcher's settings as a list of them; a searcher that is not named is surrogate."""
    listed = [values] if isinstance(values, dict) else values
    if not isinstance(listed, list):
        return listed
    return [{"searcher": "surrogate"} | each if isinstance(each, dict) else each for each in listed]


Searcher = Annotated[
    Surrogate | Local | Mcts | Evolution | Random | Uniform | Knapsack,
    Field(discriminator="searcher"),
]


class Scored(Section):
    """Which units go when a site is cut, and what is put in their place."""

    score: Score = Field(
        "auto",
        description="which units go: `activation_l2` (the paper's), `flap`, `magnitude`, "
        "`wanda_sp`, or `auto`: the one whose uniform plans lose least on reward samples",
    )
    compensate: Compensate = Field(
        "auto",
        description="restore the pruned units' mean output by a bias on the output map, as FLAP "
        "does: `true`, `false`, or `auto`: where uniform plans then lose less",
    )


class Judging(Scored):
    """How plans are judged."""

    reward: RewardKind = Field(
        "loglik",
        description="`loglik`, the mean log-likelihood of the right answers; `accuracy` (the "
        "paper's); `kl`, the divergence from the unpruned model at the answers, or `kl_text` at "
        "all text, which need no answers",
    )
    batch_size: Count = Field(40, description="samples at once")


class Search(Judging):
    """The plans that the predictor learns from."""

    targets: Several[Ratio] = Field(
        [0.1, 0.2, 0.35, 0.5, 0.65, 0.8],
        description="ratios that are searched; the predictor answers from the least to the largest",
    )
    seeds: Several[Seed] = Field([0], description="each target is searched once a seed")
    start: Start = Field(
        "knapsack",
        description="the plan a search starts from: the `knapsack`'s, or `uniform`",
    )
    settings: Annotated[list[Searcher], Field(min_length=1), BeforeValidator(_listed)] = Field(
        [Surrogate(simulations=50)], description="one mapping, or a list of them, one a searcher"
    )
    parts: Count = Field(
        10, description="parts that the samples are dealt to; the surrogate judges a plan by one"
    )
    hold_out: Part = Field(
        0.3, description="share of the parts that a search does not see; they check its best plans"
    )
    spacing: Part = Field(
        0.05,
        description="what was found is judged at all targets, and at ratios between them that are "
        "at most so far apart; 0 for none of this",
    )
    runner: Runner = Field("processes", description="`processes`, `threads`, `dask` or `ray`")
    workers: Count = Field(
        2, description="searches at once; at most one a GPU where there are GPUs"
    )
    address: Text | None = Field(
        None, description="of a Dask scheduler or Ray head; `null` starts workers here"
    )


class Learned(Section):
    """Which of a target's plans the predictor learns from."""

    sure: NotNegative = Field(
        1.0,
        description="those whose gain over the search's root, on samples that it did not see, is "
        "more than so many standard errors; where there is none, the base's own plan",
    )


class Network(Section):
    """The predictor's network."""

    kind: Kind = Field("transformer", description="`transformer`, `bilstm` or `mlp`")
    hidden: Count = Field(128, description="width of the network")
    depth: Count = Field(2, description="layers of the network")
    heads: Count = Field(4, description="of the transformer's attention")


class Fit(Section):
    """How the network is trained."""

    epochs: Count = Field(200, description="passes over the samples")
    batch_size: Count = Field(16, description="plans a step")
    lr: Positive = Field(0.001, description="peak learning rate of AdamW; cosine")
    weight_decay: NotNegative = Field(0.01, description="of AdamW")
    smooth: Number = Field(0, description="budgets mixed in between neighbouring targets")


class Train(Section):
    """The predictor."""

    seed: Seed = Field(0, description="of weights and batches")
    base: Start = Field(
        "knapsack", description="the plans it learns to differ from: the `knapsack`'s, or `uniform`"
    )
    samples: Learned = Learned()
    network: Network = Network()
    fit_options: Fit = Fit()


def _form(spec: Any) -> str:
    return "place" if isinstance(spec, dict) else "name"


TaskAt = Annotated[
    Annotated[Task, Tag("name")] | Annotated[dict[Task, Text], Tag("place")], Discriminator(_form)
]


class Evaluate(Section):
    """What dense and pruned models are asked, and how they are kept."""

    tasks: Several[TaskAt] = Field(
        ["lop_vqa"],
        description="what is asked: names, or `name: path` ([benchmarks](benchmarks.md)); methods "
        "are compared by `lop_vqa`, or where samples are texts by `lop_text`",
    )
    batch_size: Count = Field(64, description="questions at once")
    latency_samples: Count = Field(20, description="single questions that are timed")
    registers: bool = Field(
        True,
        alias="register",
        description="whether what LOP cut becomes versions of `lop-pruned-<model>` in MLflow's "
        "registry; baselines are runs alone",
    )
    register_copied_mb: NotNegative = Field(
        512,
        description="larger checkpoints are not copied there; their versions name the path",
    )
    workers: Count = Field(
        2,
        description="models at once, each in a process of its own; at most one a GPU where there "
        "are GPUs",
    )


class Promote(Section):
    """Challenger against champion, on the validation samples."""

    ratios: Several[Ratio] = Field(
        [0.2, 0.25, 0.3, 0.4, 0.5, 0.55],
        description="at which challenger and champion are compared, on the validation samples",
    )
    reward: RewardKind = Field("loglik", description="by what: `loglik` or `accuracy`")


class Params(Section):
    """All of params.yaml; a section is a stage's, and what is not said there has its default."""

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
