"""The options of each command, with their types, defaults and help texts.

Each class is a command. Options that are also settings in params.yaml take default and description
from the settings' models, so that the two agree. `lop.cli.parser` builds the parser from the
classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from lop.cli.paths import File, Folder, KitPlace, Named, NewFile, NewFolder
from lop.cli.shared import (
    POSITIONAL,
    Budgeted,
    Cutting,
    Kitted,
    OfJudging,
    OfModel,
    check_one,
    same,
    task,
)
from lop.settings import params as settings
from lop.settings import searchers
from lop.settings.learning import Learning
from lop.settings.pruning import Budget
from lop.settings.types import (
    Bits,
    Count,
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


class Learn(OfModel, Learning):
    """learn how to prune a model: make a kit from samples, with all steps from prepare to train"""

    samples: Text = Field(
        description="samples: folder or .parquet/.csv/.jsonl/.txt file; or `reference`"
    )
    out: NewFolder = Field(
        description="directory for the kit; the state from which a killed run continues is in "
        "OUT-learning"
    )
    registers: bool = Field(
        False,
        alias="register",
        description="also register the kit as the challenger in MLflow's registry",
    )


class Prepare(settings.Prepare):
    """draw calibration, reward, validation, train and benchmark samples"""

    source: Text = Field(
        description="samples: folder or .parquet/.csv/.jsonl/.txt file; or `reference`"
    )
    out: NewFolder = Field(description="directory for the samples")
    model: Text | None = Field(
        None, description="model with the tokenizer that cuts texts into windows"
    )
    benchmark: settings.Samples = Field(
        same(settings.Prepare, "benchmark").default, description="number of test questions"
    )


class Importance(OfModel, settings.Importance, settings.Space):
    """score every unit of a model's decoder on calibration samples"""

    samples: File = Field(description="calibration samples (Parquet)")
    reward: File | None = Field(
        None, description="reward samples (Parquet) on which `auto` settings are chosen"
    )
    out: NewFolder = Field(description="directory for the scores")


class Profile(OfJudging, settings.Profile):
    """measure the loss of reward when one site alone is pruned, at a grid of sizes"""

    out: NewFile = Field(description="file for the profile (Parquet)")


class Latency(OfModel):
    """time every site of a model at a grid of sizes, on this machine"""

    out: NewFile = Field(description="file for the latency profile (Parquet)")
    prompt: Count = Field(128, description="tokens in a prompt")
    batch: Count = Field(1, description="prompts in a batch")
    generated: Count = Field(16, description="tokens generated for each prompt")
    repeats: Count = Field(7, description="measurements of each size")
    device: Annotated[Text, text_like(r"cpu|cuda(:\d+)?", "cpu, cuda or cuda:1")] | None = Field(
        None, description="cpu, cuda or cuda:1; by default cuda if available"
    )
    dtype: Literal["float32", "float16", "bfloat16"] | None = Field(
        None, description="dtype of the weights; by default the checkpoint's own"
    )


class Search(OfJudging):
    """search for good plans at target ratios; finished searches are not repeated"""

    out: NewFolder = Field(description="directory for the search samples")
    target: Several[Ratio] = Field(description="pruning ratios, in [0, 1)")
    seed: Several[Seed] = same(settings.Search, "seeds")
    profile: File | None = Field(
        None, description="profile: start from the knapsack's plans, not from uniform ones"
    )
    searcher: SearcherName = Field(
        "surrogate",
        description="surrogate, local, mcts, evolution, random, uniform or knapsack",
    )
    simulations: Count = Field(
        settings.Search().settings[0].simulations,
        description=same(searchers.Searching, "simulations").description,
    )
    parts: Count = same(settings.Search, "parts")
    hold_out: Part = same(settings.Search, "hold_out")
    spacing: Part = same(settings.Search, "spacing")


class Samples(Section):
    """list the searches in a directory: targets, seeds, counts, best rewards"""

    search: Folder = Field(description="directory with search samples")
    as_json: bool = Field(False, alias="json", description="print one line of JSON")


class Train(Section):
    """train a predictor on search samples"""

    search: Folder = Field(description="directory with search samples")
    scores: File = Field(description="score file that the search used")
    out: NewFolder = Field(description="directory for the predictor")
    profile: File | None = Field(
        None,
        description="profile: learn how plans differ from the knapsack's, not from uniform ones",
    )
    sure: NotNegative = same(settings.Learned, "sure")
    smooth: Number = same(settings.Fit, "smooth")
    kind: Kind = same(settings.Network, "kind")
    epochs: Count = same(settings.Fit, "epochs")
    seed: Seed = same(settings.Train, "seed")


class Recover(Kitted, settings.Recovery):
    """train a model to work well at every budget, with the unpruned model as the teacher"""

    samples: File = Field(description="samples to train on (Parquet)")
    profile: File | None = Field(None, description="profile, for method knapsack")
    apart: list[File] = Field(
        [],
        description="tables that must share no picture with the samples, such as the benchmark's",
    )
    out: NewFolder = Field(
        description="directory for the model; its training curve, and the state from which a "
        "killed run continues, are in OUT-training"
    )


class Predict(Section):
    """print the plan for a pruning ratio"""

    kit: KitPlace | None = Field(
        None, description="directory or models:/NAME@ALIAS of a kit, instead of a predictor"
    )
    predictor: Folder | None = Field(None, description="predictor directory")
    model: Text | None = Field(
        None, description="model directory, to print how much smaller the whole model gets"
    )
    ratio: Ratio = Field(description="share of the scope to remove, in [0, 1)")
    compensate: bool = Field(
        False, description="count the biases that restore the pruned units' mean output"
    )
    as_json: bool = Field(False, alias="json", description="print one line of JSON")

    @model_validator(mode="after")
    def _kit_or_predictor(self) -> Predict:
        check_one(self, "kit", "predictor")
        return self


class Kit(settings.Scored):
    """make a kit: all files that pruning a model needs besides its weights"""

    scores: Folder = Field(description="directory with the scores")
    predictor: Text = Field(description="directory or models:/NAME@ALIAS of the predictor")
    profile: File | None = Field(None, description="profile, for method knapsack")
    latency_profile: File | None = Field(
        None, description="latency profile written by `lop latency`"
    )
    out: NewFolder = Field(description="directory for the kit")


class Pack(OfModel):
    """write a model's elastic checkpoint: the model, with its units in order of importance"""

    kit: KitPlace = Field(description="directory or models:/NAME@ALIAS of a kit")
    out: NewFolder = Field(description="directory for the elastic checkpoint")


class Prune(Cutting, Budgeted, settings.Quantizing):
    """prune a model to a given budget and write the smaller checkpoint"""

    method: Method = Field("lop", description=same(settings.Prune, "methods").description)
    bits: Annotated[list[Bits], AfterValidator(distinct)] = Field(
        [],
        description="4 or 8: quantize all sites and --others to so many bits; several of 4, 8, 16: "
        "meet --size by units and bits together, with method knapsack and a profile at these bits",
    )
    out: NewFolder = Field(description="directory for the smaller checkpoint")

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        check_one(self, *Budgeted.model_fields)
        return self


class Export(OfModel):
    """write a text decoder, dense or pruned, in the format of another engine"""

    format: Literal["gguf"] = Field("gguf", description="`gguf`, the format of llama.cpp")
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = Field(
        "f16",
        description="dtype of matrices; with `q8_0`, matrices that it cannot represent are f16",
    )
    out: NewFile = Field(description="file to write")


class Evaluate(OfModel, Budgeted):
    """evaluate a dense or pruned model, or a dense model at a budget, on benchmarks"""

    kit: KitPlace | None = Field(
        None,
        description="directory or models:/NAME@ALIAS of a kit: prune the model to a budget first, "
        "and do not keep the checkpoint",
    )

    samples: File | None = Field(
        None,
        description="samples (Parquet) for lop_vqa or lop_text, and for measuring latency and size",
    )
    tasks: Several[Annotated[settings.TaskAt, BeforeValidator(task)]] = Field(
        ["lop_vqa"],
        description="lop_vqa, lop_text, easyvqa_mme, …, mme, mmbench, mmmu_val, pope, or "
        "lm_eval.TASK; NAME=PATH gives a task's data",
    )
    out: NewFolder | None = Field(
        None,
        description="directory for answers and figures; finished tasks are not evaluated again",
    )
    batch_size: Count = same(settings.Evaluate, "batch_size")

    @model_validator(mode="after")
    def _one_target(self) -> Evaluate:
        budgets = tuple(Budgeted.model_fields)
        if self.kit:
            check_one(self, *budgets)
        elif any(getattr(self, name) is not None for name in budgets):
            raise PydanticCustomError("budget", "a budget needs --kit, which gives the plan")
        return self


class Compare(Cutting):
    """prune with several methods at several ratios, evaluate, and write a table"""

    methods: Several[Method] = Field(description=same(settings.Prune, "methods").description)
    ratios: Several[Budget] = Field(
        description="pruning ratios, in [0, 1), or targets such as 'size 9GB'"
    )
    samples: File = Field(description="benchmark samples (Parquet)")
    out: NewFolder = Field(description="directory for checkpoints, answers and tables")
    keep: Literal["all", "none"] = Field(
        "all", description="none: delete each checkpoint after its evaluation"
    )
    workers: Count = Field(1, description="models evaluated at once")
    batch_size: Count = same(settings.Evaluate, "batch_size")


class Report(Section):
    """write the report of a pipeline run"""

    evaluation: Folder = Field(Path("data/evaluation"), description="answers and figures")
    pruned: Folder = Field(Path("data/pruned"), description="pruned checkpoints")
    search: Folder = Field(Path("data/search"), description="search samples")
    training: Folder = Field(Path("data/training"), description="the predictor's training curve")
    samples: Folder = Field(Path("data/samples"), description="samples with their pictures")
    scores: Folder = Field(Path("data/importance"), description="scores, and the choice of auto")
    out: NewFolder = Field(Path("data/report"), description="directory for the report")


class Serve(Kitted):
    """serve plans and pruned checkpoints over HTTP"""

    out: NewFolder = Field(description="directory for all files that the service writes")
    host: Text = Field("127.0.0.1", description="address to listen at")
    port: Annotated[int, Field(ge=0, lt=2**16)] = Field(
        8080, description="port to listen at; 0 selects a free port"
    )
    token_file: File | None = Field(
        None, description="file with the bearer token; default: the variable LOP_SERVE_TOKEN"
    )
    workers: Count = Field(1, description="pruning jobs that run at once")
    queue: Count = Field(8, description="pruning jobs that may wait")
    keep: Count = Field(100, description="largest number of jobs and checkpoints")
    poll: Positive = Field(30, description="seconds between checks for a new predictor")
    latency_profile: File | None = Field(
        None, description="latency profile written by `lop latency`, for latency targets"
    )
    elsewhere: bool = Field(
        False,
        description="accept a latency profile of another machine, where checkpoints will run",
    )


class Diff(Section):
    """show which answers of two models differ, with the questions' pictures"""

    a: Text = Field(
        description="name of a model in the evaluation (dense, lop-0.3 …), or its answers' folder",
        json_schema_extra=POSITIONAL,
    )
    b: Text = Field(description="the other model, likewise", json_schema_extra=POSITIONAL)
    task: Text = Field("lop_vqa", description="task whose answers are compared")
    evaluation: Named = Field(Path("data/evaluation"), description="answers of all models")
    samples: File | None = Field(
        None, description="the task's questions (default: its file in data/samples)"
    )
    out: NewFile | None = Field(
        None, description="also write an HTML page with questions, pictures and answers"
    )
    limit: Number = Field(200, description="largest number of questions on the page")


class Track(Section):
    """log the runs to MLflow that were queued while it was unreachable"""


class Rollback(Section):
    """make the previous champion in MLflow's registry champion again"""

    name: Text = Field("lop-kit", description="name of the registered model")
    reason: str = Field("", description="reason, stored as a tag of the version")


COMMANDS: dict[str, type[Section]] = {
    each.__name__.lower(): each
    for each in (
        Learn, Prepare, Importance, Profile, Latency, Search, Samples, Train, Recover, Kit, Pack,
        Predict, Prune, Export, Evaluate, Compare, Report, Serve, Diff, Track, Rollback,
    )
}  # fmt: skip
