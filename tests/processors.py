"""The processor of each tiny architecture in `tiny`, from its own classes, and samples for it."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import transformers as tf
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = ["what", "is", "it", "?", ":", "USER", "ASSISTANT", "yes", "no", "red", "circle", "a"]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | upper }}: {% for p in m['content'] %}"
    "{% if p['type'] == 'image' %}IMAGE{% else %}{{ p['text'] }}{% endif %}{% endfor %} "
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tokenizer(image: str, *more: str, **options: Any) -> Any:
    """Words of 100 ids: the image token is 90 as in `tiny`, what stands for pictures follows."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    ids = [*special, *WORDS, *(f"w{i}" for i in range(90 - len(special) - len(WORDS)))]
    ids += [image, *more]
    ids += [f"x{i}" for i in range(100 - len(ids))]
    built = Tokenizer(models.WordLevel({token: i for i, token in enumerate(ids)}, "<unk>"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    extra = options.pop("extra_special_tokens", [image, *more])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=built, extra_special_tokens=extra, **names, **options
    )


def template(image: str) -> str:
    return TEMPLATE.replace("IMAGE", image)


def square(side: int) -> dict[str, int]:
    return {"height": side, "width": side}


def qwen_vl(kind: str) -> Any:
    tokens = tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    size = {"shortest_edge": 256, "longest_edge": 256}
    options: dict[str, Any] = {"size": size, "patch_size": 4, "merge_size": 2}
    video = "Qwen3VL" if kind == "Qwen3VL" else "Qwen2VL"
    return getattr(tf, f"{kind}Processor")(
        image_processor=tf.Qwen2VLImageProcessor(**options),
        video_processor=getattr(tf, f"{video}VideoProcessor")(**options),
        tokenizer=tokens,
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def llava() -> Any:
    return tf.LlavaProcessor(
        tf.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=square(8)),
        tokenizer("<image>"), patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    )  # fmt: skip


def llava_next() -> Any:
    pinpoints = [[8, 16], [16, 8]]
    images = tf.LlavaNextImageProcessor(
        size={"shortest_edge": 8}, crop_size=square(8), image_grid_pinpoints=pinpoints
    )
    return tf.LlavaNextProcessor(
        images, tokenizer("<image>"), patch_size=4, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=template("<image>"),
    )  # fmt: skip


def llava_onevision() -> Any:
    pinpoints = [[8, 16], [16, 8]]
    images = tf.LlavaOnevisionImageProcessor(size=square(8), image_grid_pinpoints=pinpoints)
    return tf.LlavaOnevisionProcessor(
        images, tokenizer("<image>", "<video>"), tf.LlavaOnevisionVideoProcessor(size=square(8)),
        num_image_tokens=4, vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )  # fmt: skip


def internvl() -> Any:
    extra = {
        "start_image_token": "<img>", "end_image_token": "</img>", "video_token": "<video>",
        "context_image_token": "<IMG_CONTEXT>",
    }  # fmt: skip
    tokens = tokenizer("<IMG_CONTEXT>", "<img>", "</img>", "<video>", extra_special_tokens=extra)
    return tf.InternVLProcessor(
        tf.GotOcr2ImageProcessor(size=square(16), crop_to_patches=False),
        tokens, tf.InternVLVideoProcessor(size=square(16)), image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )  # fmt: skip


def idefics3() -> Any:
    around = ("<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    edge = {"longest_edge": 16}
    return tf.Idefics3Processor(
        tf.Idefics3ImageProcessor(size=edge, max_image_size=edge, do_image_splitting=False),
        tokenizer("<image>", *around), image_seq_len=4, chat_template=template("<image>"),
    )  # fmt: skip


def gemma3() -> Any:
    names = {
        "image_token": "<image_soft_token>", "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
    }  # fmt: skip
    return tf.Gemma3Processor(
        tf.Gemma3ImageProcessor(size=square(16)),
        tokenizer(*names.values(), extra_special_tokens=names), image_seq_length=4,
        chat_template="{{ bos_token }}" + template("<start_of_image>"),
    )  # fmt: skip


def paligemma() -> Any:
    images = tf.SiglipImageProcessor(size=square(8))
    images.image_seq_length = 4
    return tf.PaliGemmaProcessor(images, tokenizer("<image>"), chat_template=template("<image>"))


def pixtral(merge: int) -> Any:
    return tf.PixtralProcessor(
        tf.PixtralImageProcessor(size={"longest_edge": 8 * merge}, patch_size=square(4)),
        tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]"), patch_size=4, spatial_merge_size=merge,
        chat_template="{{ bos_token }}" + template("[IMG]"),
    )  # fmt: skip


def mllama() -> Any:
    return tf.MllamaProcessor(
        tf.MllamaImageProcessor(size=square(8), max_image_tiles=1),
        tokenizer("<|image|>"),
        chat_template="{{ bos_token }}" + template("<|image|>"),
    )


PROCESSORS: dict[str, Callable[[], Any]] = {
    "Qwen2.5-VL": lambda: qwen_vl("Qwen2_5_VL"),
    "Qwen2-VL": lambda: qwen_vl("Qwen2VL"),
    "Qwen3-VL": lambda: qwen_vl("Qwen3VL"),
    "LLaVA-1.5": llava,
    "LLaVA-NeXT": llava_next,
    "LLaVA-OneVision": llava_onevision,
    "InternVL": internvl,
    "Idefics3": idefics3,
    "Gemma 3": gemma3,
    "PaliGemma": paligemma,
    "PaliGemma 2": paligemma,
    "Pixtral": lambda: pixtral(1),
    "Mistral 3": lambda: pixtral(2),
    "Mllama": mllama,
}


def samples() -> pd.DataFrame:
    """Five questions about two pictures of 16 × 16."""
    pictures = []
    for seed in range(2):
        buffer, drawn = io.BytesIO(), np.random.default_rng(seed).integers(0, 255, (16, 16, 3))
        Image.fromarray(drawn.astype(np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    questions = ["what is it ?", "is it a circle ?", "red ?", "is it red ?", "what ?"]
    rows = [
        {"id": f"s{i}", "image_id": f"i{i % 2}", "category": "a", "choices": None}
        | {"images": [{"bytes": pictures[i % 2], "path": None}], "question": question}
        | {"answer": ["yes", "no", "red circle"][i % 3]}
        for i, question in enumerate(questions)
    ]
    return pd.DataFrame(rows).assign(answers=lambda table: [[a] for a in table["answer"]])
