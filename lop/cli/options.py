"""What each command takes: its options with their types, defaults and meanings.

A class is a command; what a command shares with params.yaml it takes from the models there, so
that the two agree. `lop.cli.parser` makes the command line of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lop.cli.paths import File, Folder, KitPlace, Named, NewFile, NewFolder
from lop.settings import params as settings
from lop.settings.learning import Learning
from lop.settings.pruning import Budget
from lop.settings.types import (
    Bits,
    Count,
    Format,
    Kind,
    Method,
    NotNegative,
    Number,
    Part,
    Positive,
    Ratio,
    SearcherName,
    Section,
    Seed,
    Several,
    Text,
    distinct,
    text_like,
)


def _task(text: Any) -> Any:
    """`name`, or `name=data`, as a task of params.yaml."""
    name, given, data = str(text).partition("=")
    return {name: data} if given else name


def same(model: type[Section], name: str) -> Any:
    """A setting of params.yaml as an option: its default and its meaning."""
    return model.model_fields[name]


def _check_one(given: Section, *names: str) -> None:
    """Refuse all but one of some options."""
    if sum(getattr(given, name) is not None for name in names) != 1:
        *most, last = (f"--{name.replace('_', '-')}" for name in names)
        text = f"expected one of {', '.join(most)} and {last}"
        raise PydanticCustomError("one_of", "{text}", {"text": text})


POSITIONAL: Any = {"positional": True}


class OfModel(Section):
    model: Text = Field(description="Hugging Face model directory, dense or pruned")


class OfScores(OfModel, settings.Scored):
    scores: Folder = Field(description="directory of scores")


class OfJudging(OfScores, settings.Judging):
    samples: File = Field(description="reward samples (Parquet)")


class Kitted(OfModel, settings.Scored):
    """What cuts a model: a kit, or its parts by themselves, which go before the kit's."""

    kit: KitPlace | None = Field(
        None, description="directory or models:/NAME@ALIAS of a kit, instead of its parts"
    )
    scores: Folder | None = Field(None, description="directory of scores, where there is no kit")
    predictor: Text | None = Field(
        None, description="directory or models:/NAME@ALIAS, for method lop"
    )

    @model_validator(mode="after")
    def _kit_or_scores(self) -> Kitted:
        _check_one(self, "kit", "scores")
        return self


class Cutting(Kitted):
    recovered: Folder | None = Field(
        None, description="what `lop recover` wrote, for the methods that cut it"
    )
    profile: File | None = Field(None, description="profile, for method knapsack")
    format: Format = same(settings.Prune, "format")
    widest: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="no FFN keeps more than this share of its neurons"
    )
    latency_profile: File | None = Field(
        None, description="what `lop latency` timed, for --latency"
    )
    elsewhere: bool = Field(
        False, description="that is of another machine, where the checkpoint is to run"
    )
    sibling: bool = Field(False, description="predictor and scores are of other weights; warn")


class Budgeted(Section):
    """One budget: a ratio, or a target that becomes one."""

    ratio: Ratio | None = Field(None, description="share of its scope to remove, in [0, 1)")
    params: Text | None = Field(
        None, description="instead: parameters of the whole model, such as 5.2B"
    )
    size: Text | None = Field(
        None, description="instead: bytes on disk, at its dtype, such as 9GB, 8.5GiB"
    )
    flops_per_token: Text | None = Field(
        None, description="instead: FLOPs of its language model, such as 9G"
    )
    latency: Text | None = Field(
        None, description="instead: what the latency profile's request takes, such as 0.7x, 120ms"
    )


class Learn(OfModel, Learning):
    """learn how to prune a model: samples in, a kit out, all steps from prepare to train"""

    samples: Text = Field(description="folder or .parquet/.csv/.jsonl/.txt; or `reference`")
    out: NewFolder = Field(
        description="directory for the kit; what a killed run goes on from is beside it, in "
        "OUT-learning"
    )
    registers: bool = Field(
        False, alias="register", description="make it the challenger in MLflow's registry, too"
    )


class Prepare(settings.Prepare):
    """draw calibration, reward, validation, train and benchmark samples"""

    source: Text = Field(description="folder or .parquet/.csv/.jsonl/.txt; or `reference`")
    out: NewFolder = Field(description="directory to write")
    model: Text | None = Field(None, description="whose tokenizer cuts texts into windows")
    benchmark: settings.Samples = Field(
        same(settings.Prepare, "benchmark").default, description="how many test questions there are"
    )


class Importance(OfModel, settings.Importance, settings.Space):
    """score every unit of a model's decoder on calibration samples"""

    samples: File = Field(description="calibration samples (Parquet)")
    reward: File | None = Field(
        None, description="reward samples (Parquet): choose what `auto` means on them"
    )
    out: NewFolder = Field(description="directory for the scores")


class Profile(OfJudging, settings.Profile):
    """measure what each site alone loses at a grid of sizes"""

    out: NewFile = Field(description="file for the profile (Parquet)")


class Latency(OfModel):
    """time every site of a model at a grid of sizes, on this machine"""

    out: NewFile = Field(description="file for the latency profile (Parquet)")
    prompt: Count = Field(128, description="tokens of a prompt")
    batch: Count = Field(1, description="prompts at once")
    generated: Count = Field(16, description="tokens that each is answered with")
    repeats: Count = Field(7, description="times that each size is timed")
    device: Annotated[Text, text_like(r"cpu|cuda(:\d+)?", "cpu, cuda or cuda:1")] | None = Field(
        None, description="cpu, cuda or cuda:1; cuda where there is one"
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="of the weights; the checkpoint's own if not given"
    )


class Search(OfJudging):
    """search good plans at target ratios; finished searches are kept"""

    out: NewFolder = Field(description="directory for the search samples")
    target: Several[Ratio] = Field(description="pruning ratios, in [0, 1)")
    seed: Several[Seed] = same(settings.Search, "seeds")
    profile: File | None = Field(
        None, description="start from the knapsack's plans, not from uniform ones"
    )
    searcher: SearcherName = Field(
        "surrogate",
        description="surrogate, local, mcts, evolution, random, uniform or knapsack",
    )
    simulations: Count = Field(
        settings.Search().settings[0].simulations,
        description=same(settings.Searching, "simulations").description,
    )
    parts: Count = same(settings.Search, "parts")
    hold_out: Part = same(settings.Search, "hold_out")
    spacing: Part = same(settings.Search, "spacing")


class Samples(Section):
    """list what was searched: targets, seeds, counts, best rewards"""

    search: Folder = Field(description="directory of search samples")
    as_json: bool = Field(False, alias="json", description="one line of JSON")


class Train(Section):
    """train a predictor on search samples"""

    search: Folder = Field(description="directory of search samples")
    scores: File = Field(description="the score that the search used")
    out: NewFolder = Field(description="directory for the predictor")
    profile: File | None = Field(
        None, description="learn how plans differ from the knapsack's, not uniform ones"
    )
    sure: NotNegative = same(settings.Learned, "sure")
    smooth: Number = same(settings.Fit, "smooth")
    kind: Kind = same(settings.Network, "kind")
    epochs: Count = same(settings.Fit, "epochs")
    seed: Seed = same(settings.Train, "seed")


class Recover(Kitted, settings.Recovery):
    """train a model such that it is good at every budget, with the unpruned one as the teacher"""

    samples: File = Field(description="samples to train on (Parquet)")
    profile: File | None = Field(None, description="profile, for method knapsack")
    apart: list[File] = Field(
        [], description="tables that share no picture with the samples, such as the benchmark's"
    )
    out: NewFolder = Field(
        description="directory for the model; its curve, and the state that a killed run goes on "
        "from, are beside it, in OUT-training"
    )


class Predict(Section):
    """print the plan for a pruning ratio"""

    kit: KitPlace | None = Field(
        None, description="directory or models:/NAME@ALIAS of a kit, instead of a predictor"
    )
    predictor: Folder | None = Field(None, description="predictor directory")
    model: Text | None = Field(
        None, description="the model it is for: tells how much smaller the whole of it gets"
    )
    ratio: Ratio = Field(description="share of its scope to remove, in [0, 1)")
    compensate: bool = Field(
        False, description="count the biases that restore the pruned units' mean output"
    )
    as_json: bool = Field(False, alias="json", description="one line of JSON")

    @model_validator(mode="after")
    def _kit_or_predictor(self) -> Predict:
        _check_one(self, "kit", "predictor")
        return self


class Kit(settings.Scored):
    """gather all that pruning a model needs besides its weights"""

    scores: Folder = Field(description="directory of scores")
    predictor: Text = Field(description="directory or models:/NAME@ALIAS")
    profile: File | None = Field(None, description="profile, for method knapsack")
    latency_profile: File | None = Field(None, description="what `lop latency` timed")
    out: NewFolder = Field(description="directory for the kit")


class Pack(OfModel):
    """write a model's elastic checkpoint: itself, with units in order of importance"""

    kit: KitPlace = Field(description="directory or models:/NAME@ALIAS of a kit")
    out: NewFolder = Field(description="directory for the elastic checkpoint")


class Prune(Cutting, Budgeted, settings.Quantizing):
    """cut a checkpoint of a given pruning ratio out of a model"""

    method: Method = Field("lop", description=same(settings.Prune, "methods").description)
    bits: Annotated[list[Bits], AfterValidator(distinct)] = Field(
        [],
        description="one of 4, 8: quantize all; several of 4, 8, 16: --size is met by units and "
        "bits together, with method knapsack and a profile at these bits",
    )
    out: NewFolder = Field(description="directory for the smaller checkpoint")

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        _check_one(self, *Budgeted.model_fields)
        return self


class Export(OfModel):
    """write a text decoder, dense or pruned, in the format of another engine"""

    format: Literal["gguf"] = Field("gguf", description="`gguf`: what llama.cpp reads")
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = Field(
        "f16", description="of matrices; with `q8_0`, those that it does not fit are f16"
    )
    out: NewFile = Field(description="file to write")


class Evaluate(OfModel, Budgeted):
    """ask a dense or pruned model, or a dense one at a budget, benchmarks, and measure it"""

    kit: KitPlace | None = Field(
        None, description="of a kit: cut the model to a budget first, and keep no copy"
    )

    samples: File | None = Field(
        None, description="samples (Parquet): lop_vqa's questions, lop_text's texts, to time it on"
    )
    tasks: Several[Annotated[settings.TaskAt, BeforeValidator(_task)]] = Field(
        ["lop_vqa"],
        description="lop_vqa, lop_text, easyvqa_mme, …, mme, mmbench, mmmu_val, pope, or "
        "lm_eval.TASK; name=PATH: its data",
    )
    out: NewFolder | None = Field(
        None, description="directory to keep answers and figures in; finished ones stay"
    )
    batch_size: Count = same(settings.Evaluate, "batch_size")

    @model_validator(mode="after")
    def _one_target(self) -> Evaluate:
        budgets = tuple(Budgeted.model_fields)
        if self.kit:
            _check_one(self, *budgets)
        elif any(getattr(self, name) is not None for name in budgets):
            raise PydanticCustomError("budget", "a budget needs --kit, which says the plan")
        return self


class Compare(Cutting):
    """cut and evaluate several methods at several ratios, and write the table"""

    methods: Several[Method] = Field(description=same(settings.Prune, "methods").description)
    ratios: Several[Budget] = Field(
        description="pruning ratios, in [0, 1), or targets such as 'size 9GB'"
    )
    samples: File = Field(description="benchmark samples (Parquet)")
    out: NewFolder = Field(description="directory for checkpoints, answers and tables")
    workers: Count = Field(1, description="models evaluated at once")
    batch_size: Count = same(settings.Evaluate, "batch_size")


class Report(Section):
    """write the report of a pipeline run"""

    evaluation: Folder = Field(Path("data/evaluation"), description="answers and figures")
    pruned: Folder = Field(Path("data/pruned"), description="the checkpoints")
    search: Folder = Field(Path("data/search"), description="search samples")
    training: Folder = Field(Path("data/training"), description="the predictor's curve")
    samples: Folder = Field(Path("data/samples"), description="samples with their pictures")
    scores: Folder = Field(Path("data/importance"), description="scores, and what auto chose")
    out: NewFolder = Field(Path("data/report"), description="directory to write")


class Serve(Kitted):
    """answer ratios with plans, and cut checkpoints, over HTTP"""

    out: NewFolder = Field(description="the one directory that is written to")
    host: Text = Field("127.0.0.1", description="address to listen at")
    port: Annotated[int, Field(ge=0, lt=2**16)] = Field(8080, description="0 takes a free one")
    token_file: File | None = Field(
        None, description="holds the bearer token; else LOP_SERVE_TOKEN does"
    )
    workers: Count = Field(1, description="checkpoints cut at once")
    queue: Count = Field(8, description="checkpoints that may wait to be cut")
    keep: Count = Field(100, description="checkpoints there may be")
    poll: Positive = Field(30, description="seconds between looks at the alias")
    latency_profile: File | None = Field(
        None, description="what `lop latency` timed: targets may be a latency"
    )
    elsewhere: bool = Field(
        False, description="that is of another machine, where checkpoints are to run"
    )


class Diff(Section):
    """show which answers of two models differ, with their pictures"""

    a: Text = Field(
        description="a model's name in the evaluation (dense, lop-0.3 …) or its folder",
        json_schema_extra=POSITIONAL,
    )
    b: Text = Field(description="another one", json_schema_extra=POSITIONAL)
    task: Text = Field("lop_vqa", description="whose answers")
    evaluation: Named = Field(Path("data/evaluation"), description="answers of all models")
    samples: File | None = Field(
        None, description="the task's questions (default: its file in data/samples)"
    )
    out: NewFile | None = Field(
        None, description="also write an HTML page with questions, pictures and answers"
    )
    limit: Number = Field(200, description="questions on that page at most")


class Track(Section):
    """log to MLflow what had to wait while it was out of reach"""


class Rollback(Section):
    """give the champion's alias back to the kit that had it before"""

    name: Text = Field("lop-kit", description="registered model")
    reason: str = Field("", description="why; kept on the version")


COMMANDS: dict[str, type[Section]] = {
    each.__name__.lower(): each
    for each in (
        Learn, Prepare, Importance, Profile, Latency, Search, Samples, Train, Recover, Kit, Pack,
        Predict, Prune, Export, Evaluate, Compare, Report, Serve, Diff, Track, Rollback,
    )
}  # fmt: skip
