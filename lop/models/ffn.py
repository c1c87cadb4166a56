"""Finds the prunable part of a model: the feed-forward networks of its language decoder.

Found by structure and shapes, not by a list of architectures: importance, reward and pruning all
walk over the list that `find_ffns` returns, so a model family is understood here or nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn
from transformers import PreTrainedModel

from lop.errors import LopError


@dataclass(frozen=True)
class FFN:
    """One decoder layer's feed-forward network; its neurons are what enters `down`.

    Gated, down(act(gate(x)) · up(x)): `inputs` are gate and up, in either order, or one `fused`
    map whose rows are first the one's and then the other's. Plain, down(act(up(x))): one input.
    """

    name: str
    inputs: dict[str, nn.Linear]  # weights (d, hidden), or one fused (2d, hidden)
    output: str
    down: nn.Linear  # weight (hidden, d)
    fused: bool = False

    @property
    def width(self) -> int:
        """Intermediate neurons d."""
        return self.down.in_features

    def rows(self, neurons: Tensor) -> Tensor:
        """Where in its input maps' rows these neurons stand."""
        return torch.cat([neurons, neurons + self.width]) if self.fused else neurons

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Inside, the weights are where they can be read, also those offloaded to CPU or disk."""
        with ExitStack() as stack:
            for linear in (*self.inputs.values(), self.down):
                stack.enter_context(align_module_device(linear))
            yield

    def input_tensors(self) -> dict[str, Tensor]:
        """Weights and biases of the input maps, detached, by `<map>.<parameter>`."""
        return {
            f"{name}.{kind}": parameter.detach()
            for name, linear in self.inputs.items()
            for kind, parameter in linear.named_parameters()
        }


def find_ffns(model: PreTrainedModel) -> list[FFN]:
    """The decoder's FFNs in layer order; vision tower and projector are left alone.

    Raises LopError, naming the layer and what was found in it, when a layer has not just one FFN
    of ordinary linear maps: a mixture of experts, quantized or shared weights are none.
    """
    if method := getattr(model, "quantization_method", None):
        raise LopError(f"{type(model).__name__}: is quantized ({method}): prune it before that")
    prefix, layers = _layers(model)
    ffns = [_ffn_of(f"{prefix}.{i}", layer) for i, layer in enumerate(layers)]
    owners: dict[int, str] = {}
    for ffn in ffns:
        if (owner := owners.setdefault(id(ffn.down.weight), ffn.name)) != ffn.name:
            raise LopError(f"{ffn.name}: shares its weights with {owner}; expected its own")
    return ffns


def decoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The language decoder's layers. Raises LopError where none are found."""
    return _layers(model)[1]


def ffn_widths(model: PreTrainedModel) -> tuple[int, ...]:
    """Intermediate neurons of each decoder layer, shape (L,)."""
    return tuple(ffn.width for ffn in find_ffns(model))


def linear_weights(model: PreTrainedModel) -> int:
    """Weights of the language model's linear maps, its output embeddings among them."""
    maps = [m for m in model.get_decoder().modules() if isinstance(m, nn.Linear)]
    return sum(m.weight.numel() for m in [*maps, model.get_output_embeddings()])


def check_in_memory(ffns: Sequence[FFN]) -> None:
    """Raise LopError when FFN weights are offloaded, where they cannot be changed in place."""
    for ffn in ffns:
        if ffn.down.weight.is_meta:
            raise LopError(
                f"{ffn.name}: is offloaded by its device map; expected the decoder in memory "
                "(`lop prune` cuts files, and needs no memory for the model)"
            )


def describe(ffns: Sequence[FFN], output_bias: bool) -> dict[str, Any]:
    """Where the FFNs' linear maps are, as `lop.models.modeling_lop.resize` wants it.

    Raises LopError when the layers' FFNs are not all alike.
    """
    first = ffns[0]
    path = re.sub(r"\.0(?=\.|$)", ".{}", first.name, count=1)
    for layer, ffn in enumerate(ffns):
        like = FFN(path.format(layer), ffn.inputs, first.output, ffn.down, first.fused)
        if ffn != like or list(ffn.inputs) != list(first.inputs):
            raise LopError(f"{ffn.name}: is built in another way than {first.name}")
    return {
        "module": path,
        "inputs": list(first.inputs),
        "output": first.output,
        "fused": first.fused,
        "output_bias": output_bias,
    }


def _layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder's layers, and their name in the model.

    A vision tower may have as many: the decoder's are those beside the input embeddings.
    """
    count = model.config.get_text_config().num_hidden_layers
    decoder, names = model.get_decoder(), {m: name for name, m in model.named_modules()}
    beside = names.get(model.get_input_embeddings(), "").split(".")

    def nearness(name: str) -> tuple[int, int]:
        parts = name.split(".")
        same = [a == b for a, b in zip(parts, beside, strict=False)]
        return [*same, False].index(False), -len(parts)

    found = {
        names[module]: module
        for module in decoder.modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    }
    if not found:
        kind = type(model).__name__
        raise LopError(f"{kind}: no {count} decoder layers found in its language model")
    name = max(found, key=nearness)
    return name, found[name]


def _ffn_of(prefix: str, layer: nn.Module) -> FFN:
    if any(parameter.ndim > 2 for parameter in layer.parameters()):
        raise LopError(f"{prefix}: is a mixture of experts, which lop does not prune")
    found = [
        ffn
        for name, module in layer.named_modules()
        if "attention" not in type(module).__name__.lower()
        and (ffn := _match(f"{prefix}.{name}".rstrip("."), module))
    ]
    if len(found) == 1:
        ffn = _checked(found[0])
        module = layer.get_submodule(ffn.name.removeprefix(prefix).lstrip("."))
        _check_plain(ffn, module, module is layer)
        return ffn
    if found:
        names = ", ".join(ffn.name.removeprefix(prefix + ".") for ffn in found[:4])
        raise LopError(f"{prefix}: {len(found)} feed-forward networks ({names} …), expected one")
    kinds = sorted({type(m).__name__ for m in layer.modules()} - {type(layer).__name__})
    raise LopError(
        f"{prefix}: no feed-forward network of linear maps (gate, up, down; gate_up, down; "
        f"or fc1, fc2); found {', '.join(kinds)}"
    )


def _match(name: str, module: nn.Module) -> FFN | None:
    """The FFN that a module's own linear maps make up, if they do."""
    # also what is no nn.Linear but stands for one: a gated FFN must not pass for a plain one
    linears: dict[str, Any] = {n: m for n, m in module.named_children() if _is_linear(m)}
    if len(linears) not in (2, 3):
        return None
    # the last that fits: should all be square, the map out of the neurons is the one defined last
    for output in reversed(linears):
        down = linears[output]
        inputs = {n: m for n, m in linears.items() if n != output}
        hidden, width = down.out_features, down.in_features
        shapes = {(m.in_features, m.out_features) for m in inputs.values()}
        if shapes == {(hidden, width)}:
            return FFN(name, inputs, output, down)
        if len(inputs) == 1 and shapes == {(hidden, 2 * width)}:
            return FFN(name, inputs, output, down, fused=True)
    return None


def _is_linear(module: nn.Module) -> bool:
    named_so = "linear" in type(module).__name__.lower()
    return named_so or hasattr(module, "in_features")


def _checked(ffn: FFN) -> FFN:
    for name, linear in [*ffn.inputs.items(), (ffn.output, ffn.down)]:
        kind = type(linear)
        plain = kind is nn.Linear and linear.weight.dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16,
        )  # fmt: skip
        if not plain:
            dtype = getattr(linear.weight, "dtype", "its own kind")
            raise LopError(
                f"{ffn.name}.{name}: is a {kind.__name__} of {dtype}; expected an nn.Linear of "
                "float32, float16 or bfloat16 (is the model quantized?)"
            )
    return ffn


def _check_plain(ffn: FFN, module: nn.Module, whole: bool) -> None:
    """Raise LopError when neurons depend on each other, or have tensors beside the linear maps.

    A norm over the neurons is both: without some of them it is another norm. `whole` says that
    `module` is the whole layer, where other tensors are of the hidden size.
    """
    sizes = {ffn.width, 2 * ffn.width} if ffn.fused else {ffn.width}
    if whole:
        sizes.discard(ffn.down.out_features)
    maps = tuple(f"{name}." for name in (*ffn.inputs, ffn.output))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not name.startswith(maps) and sizes & set(tensor.shape):
            raise LopError(
                f"{ffn.name}.{name}: is a parameter of the FFN's {ffn.width} neurons; expected "
                "none but the linear maps'"
            )


@torch.no_grad()
def keep_neurons(ffn: FFN, kept: Tensor, bias: Tensor | None = None) -> None:
    """Cut `ffn` in place down to the neurons with indices `kept`, shape (k,), ascending.

    `bias`, shape (hidden,), is added to the output map (FLAP's compensation).
    """
    rows = ffn.rows(kept)
    for linear in ffn.inputs.values():
        linear.weight = nn.Parameter(linear.weight[rows].clone(), requires_grad=False)
        if linear.bias is not None:
            linear.bias = nn.Parameter(linear.bias[rows].clone(), requires_grad=False)
        linear.out_features = len(rows)
    weight = ffn.down.weight[:, kept].contiguous()
    ffn.down.weight = nn.Parameter(weight, requires_grad=False)
    ffn.down.in_features = len(kept)
    if bias is not None:
        there = ffn.down.bias
        bias = bias.to(weight) if there is None else (bias.float() + there.float()).to(there)
        ffn.down.bias = nn.Parameter(bias, requires_grad=False)


def lost_output(weight: Tensor, kept: Tensor, mean: Tensor) -> Tensor:
    """What the neurons not in `kept` add to an FFN's output on average, float32 (hidden,).

    `weight` (hidden, d) is the output map's, `mean` (d,) the neurons' mean activation.
    """
    pruned = torch.ones(weight.shape[1], dtype=torch.bool)
    pruned[kept] = False
    return weight[:, pruned.to(weight.device)].float() @ mean[pruned].to(weight.device)
