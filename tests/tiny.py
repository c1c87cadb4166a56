"""A tiny random model of each architecture from its own config class, with inputs that hold an
image where the architecture takes one."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as tf

IMAGE = 90  # the image token
TEXT = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 100, "max_position_embeddings": 256,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
VIT = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 8, "patch_size": 4,
}  # fmt: skip


def text_ids(images: int = 0) -> torch.Tensor:
    """Two rows of tokens, with so many image tokens after the first."""
    torch.manual_seed(0)
    ids = torch.randint(3, 80, (2, 7 + images))
    ids[:, 1 : 1 + images] = IMAGE
    return ids


def pixels(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def qwen_vl(kind: str, **vision: Any) -> tuple[Any, dict[str, Any]]:
    text = TEXT | {"rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}
    tower = {"depth": 1, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2} | vision
    config = getattr(tf, f"{kind}Config")(
        text_config=text, vision_config=tower, image_token_id=IMAGE, video_token_id=91,
        vision_start_token_id=92, vision_end_token_id=93,
    )  # fmt: skip
    ids = text_ids(4)
    inputs = {
        "input_ids": ids,
        "pixel_values": pixels(32, 3 * 2 * 4 * 4),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * 2),
        "mm_token_type_ids": (ids == IMAGE).int(),
    }
    return config, inputs


def llava() -> tuple[Any, dict[str, Any]]:
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**VIT), text_config=tf.LlamaConfig(**TEXT),
        image_token_index=IMAGE, vision_feature_layer=-1,
    )  # fmt: skip
    return config, {"input_ids": text_ids(4), "pixel_values": pixels(2, 3, 8, 8)}


def llava_next() -> tuple[Any, dict[str, Any]]:
    config = tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**VIT), text_config=tf.LlamaConfig(**TEXT),
        image_token_index=IMAGE, vision_feature_layer=-1, image_grid_pinpoints=[[8, 16], [16, 8]],
    )  # fmt: skip
    # a base tile of 2×2 patches, and 2×4 with a newline a row
    inputs = {"pixel_values": pixels(2, 3, 3, 8, 8), "image_sizes": torch.tensor([[8, 16]] * 2)}
    return config, {"input_ids": text_ids(4 + 10)} | inputs


def llava_onevision() -> tuple[Any, dict[str, Any]]:
    config = tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**VIT), text_config=tf.Qwen2Config(**TEXT),
        image_token_index=IMAGE, image_grid_pinpoints=[[8, 16], [16, 8]], vision_feature_layer=-1,
    )  # fmt: skip
    inputs = {"pixel_values": pixels(2, 3, 3, 8, 8), "image_sizes": torch.tensor([[8, 16]] * 2)}
    return config, {"input_ids": text_ids(4 + 10)} | inputs


def internvl() -> tuple[Any, dict[str, Any]]:
    tower = VIT | {"image_size": [16, 16], "patch_size": [4, 4]}
    config = tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**tower), text_config=tf.Qwen2Config(**TEXT),
        image_token_id=IMAGE,
    )  # fmt: skip
    return config, {"input_ids": text_ids(4), "pixel_values": pixels(2, 3, 16, 16)}


def idefics(kind: str) -> tuple[Any, dict[str, Any]]:
    config = getattr(tf, f"{kind}Config")(
        text_config=tf.LlamaConfig(**TEXT), vision_config=VIT | {"image_size": 16}, scale_factor=2,
        image_token_id=IMAGE, pad_token_id=0,
    )  # fmt: skip
    return config, {"input_ids": text_ids(4), "pixel_values": pixels(2, 1, 3, 16, 16)}


def gemma3() -> tuple[Any, dict[str, Any]]:
    config = tf.Gemma3Config(
        text_config=TEXT | {
            "sliding_window": 8, "layer_types": ["sliding_attention"] * 2 + ["full_attention"],
            "tie_word_embeddings": False,
        },
        vision_config=VIT | {"image_size": 16}, mm_tokens_per_image=4, image_token_index=IMAGE,
        boi_token_index=91, eoi_token_index=92, tie_word_embeddings=False,
    )  # fmt: skip
    ids = text_ids(4)
    inputs = {"pixel_values": pixels(2, 3, 16, 16), "token_type_ids": (ids == IMAGE).int()}
    return config, {"input_ids": ids} | inputs


def paligemma(text: str) -> tuple[Any, dict[str, Any]]:
    config = tf.PaliGemmaConfig(
        text_config=TEXT | {"model_type": text, "tie_word_embeddings": False},
        vision_config=VIT | {"model_type": "siglip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE, projection_dim=32, hidden_size=32, tie_word_embeddings=False,
    )  # fmt: skip
    return config, {"input_ids": text_ids(4), "pixel_values": pixels(2, 3, 8, 8)}


def pixtral() -> tuple[Any, dict[str, Any]]:
    config = tf.LlavaConfig(
        vision_config=tf.PixtralVisionConfig(**VIT, head_dim=8),
        text_config=tf.MistralConfig(**TEXT), image_token_index=IMAGE,
        vision_feature_layer=-1, vision_feature_select_strategy="full",
    )  # fmt: skip
    inputs = {"pixel_values": pixels(2, 3, 8, 8), "image_sizes": torch.tensor([[8, 8]] * 2)}
    return config, {"input_ids": text_ids(4)} | inputs


def mistral3() -> tuple[Any, dict[str, Any]]:
    config = tf.Mistral3Config(
        vision_config=tf.PixtralVisionConfig(**(VIT | {"image_size": 16}), head_dim=8),
        text_config=tf.MistralConfig(**TEXT), image_token_index=IMAGE, spatial_merge_size=2,
    )  # fmt: skip
    inputs = {"pixel_values": pixels(2, 3, 16, 16), "image_sizes": torch.tensor([[16, 16]] * 2)}
    return config, {"input_ids": text_ids(4)} | inputs


def mllama() -> tuple[Any, dict[str, Any]]:
    text = TEXT | {"cross_attention_layers": [1], "vocab_size": 100}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    vision = {
        "hidden_size": 16, "intermediate_size": 32, "attention_heads": 2, "num_hidden_layers": 2,
        "num_global_layers": 1, "image_size": 8, "patch_size": 4, "max_num_tiles": 1,
        "intermediate_layers_indices": [0], "vision_output_dim": 32, "norm_eps": 1e-6,
        "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    config = tf.MllamaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE)
    ids = text_ids(1)
    inputs = {
        "pixel_values": pixels(2, 1, 1, 3, 8, 8),
        "aspect_ratio_ids": torch.ones(2, 1, dtype=torch.long),
        "aspect_ratio_mask": torch.ones(2, 1, 1, dtype=torch.long),
        "cross_attention_mask": torch.ones(2, ids.shape[1], 1, 1, dtype=torch.long),
    }
    return config, {"input_ids": ids} | inputs


def text_only(kind: str, **more: Any) -> tuple[Any, dict[str, Any]]:
    return getattr(tf, f"{kind}Config")(**TEXT | more), {"input_ids": text_ids()}


ARCHITECTURES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "Qwen2.5-VL": lambda: qwen_vl(
        "Qwen2_5_VL", hidden_size=16, intermediate_size=32, out_hidden_size=32
    ),
    "Qwen2-VL": lambda: qwen_vl("Qwen2VL", embed_dim=16, hidden_size=32, mlp_ratio=2),
    "Qwen3-VL": lambda: qwen_vl(
        "Qwen3VL",
        hidden_size=16,
        intermediate_size=32,
        out_hidden_size=32,
        deepstack_visual_indexes=[0],
        num_position_embeddings=16,
    ),
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": llava_onevision,
    "InternVL": internvl,
    "SmolVLM": lambda: idefics("SmolVLM"),
    "Idefics3": lambda: idefics("Idefics3"),
    "Gemma 3": gemma3,
    "PaliGemma": lambda: paligemma("gemma"),
    "PaliGemma 2": lambda: paligemma("gemma2"),
    "Pixtral": pixtral,
    "Mistral 3": mistral3,
    "Mllama": mllama,
    "Llama": lambda: text_only("Llama"),
    "Qwen2": lambda: text_only("Qwen2"),
    "Qwen3": lambda: text_only("Qwen3"),
    "Gemma 2": lambda: text_only("Gemma2"),
    "Granite": lambda: text_only("Granite", logits_scaling=4.0),
    "Cohere": lambda: text_only("Cohere", logit_scale=0.25),
    "Phi-2": lambda: text_only("Phi"),
    "Phi-3": lambda: text_only("Phi3"),
}


def build(name: str) -> tuple[Any, dict[str, Any]]:
    """The model, with activations and logits of several units, as a trained one has, and inputs.

    With transformers' own start, all is near zero: caps and scales of logits would do nothing, and
    pruning would change nothing.
    """
    from lop.models.checkpoint import model_class
    from lop.models.space import find_ffns

    config, inputs = ARCHITECTURES[name]()
    torch.manual_seed(2)
    model = model_class(config)(config).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
            elif isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.Conv3d):
                module.weight.normal_(std=module.weight[0].numel() ** -0.5)
        for ffn in find_ffns(model):
            for linear in ffn.maps:
                linear.weight.normal_(std=0.3)
        output = model.get_output_embeddings().weight
        output.normal_()
        output[:4] = output[90:] = 0  # no special token is ever the likeliest
    return model, inputs | {"attention_mask": torch.ones_like(inputs["input_ids"])}
