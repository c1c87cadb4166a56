"""A vLLM plugin: vLLM's model classes build each layer of a pruned model at that layer's sizes.

Where lop is installed, vLLM finds the plugin by the entry point `vllm.general_plugins` and calls
`register` in each of its processes. vLLM's decoders build all layers from one config by
`make_layers`. While a layer of a pruned model is built, the plugin sets this config to the layer's
values (`per_layer_config`: widths, heads, `skip`). Nothing else changes, and other models are not
affected.

vLLM may need other versions of torch and transformers than lop, so this file imports nothing of
lop.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

KEYS = {"mlp": "pruned_ffn", "attention": "pruned_attention"}  # config keys by the names in `skip`
# Model types whose classes derive the head size from the head count; else they are a Llama with
# biases.
AS_LLAMA = ("qwen2", "qwen2_vl_text", "qwen2_5_vl_text")


def register() -> None:
    """Patch vLLM's models to build pruned layers; a second call has no effect."""
    from vllm.model_executor.models import utils

    stock = utils.make_layers
    if getattr(stock, "layer_by_layer", False):
        return
    ours = layer_by_layer(stock)
    for name, module in list(sys.modules.items()):  # modules that imported `make_layers` by name
        if name.startswith("vllm.") and vars(module).get("make_layers") is stock:
            module.make_layers = ours  # type: ignore[attr-defined]


def layer_by_layer(make_layers: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's `make_layers`, extended to pruned models."""

    def make(layers: int, build: Callable[..., Any], prefix: str) -> Any:
        from vllm.config import get_current_vllm_config

        vllm_config = get_current_vllm_config()
        text = vllm_config.model_config.hf_config.get_text_config()
        if not is_pruned(text) or layers != text.num_hidden_layers:  # the latter: a vision tower
            return make_layers(layers, build, prefix)
        check(text)

        def build_own(prefix: str) -> Any:
            return layer_of(text, vllm_config, build, prefix)

        return make_layers(layers, build_own, prefix)

    make.layer_by_layer = True  # type: ignore[attr-defined]
    return make


def is_pruned(text: Any) -> bool:
    """Whether a text config belongs to a model that lop pruned."""
    return any(getattr(text, key, None) is not None for key in KEYS.values())


def check(text: Any) -> None:
    """Raise ValueError for a config that vLLM cannot serve."""
    for key in KEYS.values():
        if (getattr(text, key, None) or {}).get("widths"):
            raise ValueError(
                f"{text.model_type}: the sizes of its layers are in {key}; "
                "expected per_layer_config"
            )


def layer_of(text: Any, vllm_config: Any, build: Callable[..., Any], prefix: str) -> Any:
    """One decoder layer, built by vLLM's class from the layer's config, without its skipped sites.

    Raises ValueError if the built layer does not fit the config.
    """
    number = int(prefix.rpartition(".")[2])
    own = copy.copy(text.per_layer_config[number])
    attention = getattr(text, "pruned_attention", None)
    if attention:
        own.head_dim = head_size(attention)
    with reading_as(text, own):
        if attention and text.model_type in AS_LLAMA:
            layer = as_llama(own, vllm_config, prefix)
        else:
            layer = build(prefix=prefix)
    for name, key in KEYS.items():
        place = getattr(text, key, None)
        if place is not None and number in (place.get("layers") or range(text.num_hidden_layers)):
            fit(layer, place, name, name in getattr(own, "skip", ()), vllm_config, prefix)
    return layer


@contextmanager
def reading_as(text: Any, own: Any) -> Iterator[None]:
    """Within the block, the config `text` has the values of `own`, one layer's config."""
    whole = dict(vars(text))
    _become(text, vars(own))
    try:
        yield
    finally:
        _become(text, whole)


def _become(config: Any, values: dict[str, Any]) -> None:
    vars(config).clear()
    vars(config).update(values)


def head_size(attention: dict[str, Any]) -> int:
    """The head size of a pruned model: columns of the output map for each query head."""
    return int(attention["columns"]) // int(attention["heads"][0])


def as_llama(own: Any, vllm_config: Any, prefix: str) -> Any:
    """Build a Qwen2 layer as a Llama layer, whose class takes the head size from the config."""
    from vllm.model_executor.models.llama import LlamaDecoderLayer

    own.qkv_bias, own.attention_bias = True, False
    return LlamaDecoderLayer(vllm_config, prefix=prefix, config=own)


def fit(
    layer: Any, place: dict[str, Any], kind: str, skipped: bool, vllm_config: Any, prefix: str
) -> None:
    """Remove a skipped site from a built layer, and add the bias of compensation if needed."""
    name, output = place["module"].rpartition(".")[2], place["output"]
    site: Any = getattr(layer, name, None)
    linear = getattr(site, output, None)
    if linear is None:
        raise ValueError(
            f"{prefix}: vLLM's {type(layer).__name__} has no {name}.{output}; "
            "use a padded checkpoint"
        )
    if kind == "attention" and site.head_dim != head_size(place):
        raise ValueError(
            f"{prefix}: vLLM's {type(site).__name__} makes heads of {site.head_dim}, the model's "
            f"are of {head_size(place)}; use a padded checkpoint, or do not prune attention"
        )
    if place["output_bias"] and linear.bias is None:
        linear.bias = bias_like(linear)
    if skipped:
        forget_attention(vllm_config, f"{prefix}.{name}")
        setattr(layer, name, skipped_site(output, linear.bias))


def bias_like(linear: Any) -> Any:
    """A bias parameter, still zeros, for a RowParallelLinear that was built without one."""
    import torch

    room = linear.weight.new_zeros(linear.output_size)
    bias: Any = torch.nn.Parameter(room, requires_grad=False)
    bias.output_dim, bias.weight_loader = 0, linear.weight_loader
    return bias


def forget_attention(vllm_config: Any, prefix: str) -> None:
    """Remove the attention at `prefix` from vLLM's context, so that it gets no KV cache."""
    context = vllm_config.compilation_config.static_forward_context
    for name in [name for name in context if name.startswith(f"{prefix}.")]:
        del context[name]


def skipped_site(output: str, bias: Any) -> Any:
    """A module that returns zeros in the shape of its input, or the bias of its output map."""
    import torch

    class Skipped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module(output, torch.nn.Module())
            self.get_submodule(output).register_parameter("bias", bias)

        def forward(self, *args: Any, hidden_states: Any = None, **kwargs: Any) -> Any:
            # attention also gets positions; as positional arguments, they come before the states
            like = args[-1] if hidden_states is None else hidden_states
            own = next(self.parameters(), None)
            return torch.zeros_like(like) if own is None else own.expand_as(like)

    return Skipped()
