"""Tiny models of text with random weights, and a byte-level tokenizer trained on a few lines."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from lop.models.checkpoint import model_class, save
from lop.models.space import find_ffns

LINES = [
    "the cat sat on the mat and the dog lay by the door",
    "a red circle is a shape, and a blue square is one too",
    "what is it? yes or no: the answer is in the book",
]
TEMPLATE = (  # as text models have them: a turn's content is a text
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320, "max_position_embeddings": 256,
    "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None,
}  # fmt: skip
KINDS = ("Llama", "Qwen2", "Gemma3Text", "Phi3")


def tokenizer(bos: bool = True, template: str | None = None) -> Any:
    """Pieces of bytes; with `bos`, it writes <s> before every text, as Llama's and Gemma's do."""
    built = Tokenizer(models.BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<|start|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    built.train_from_iterator(LINES, trainer)
    if bos:
        built.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<s>", eos_token="</s>", chat_template=template,
        extra_special_tokens=special[2:],
    )  # fmt: skip


def model(kind: str = "Llama", **more: Any) -> Any:
    """A model whose logits and activations are of several units, as a trained one's are."""
    config = getattr(tf, f"{kind}Config")(**SHAPE | more)
    torch.manual_seed(2)
    built = model_class(config)(config).eval()
    with torch.no_grad():
        for module in built.modules():
            if isinstance(module, torch.nn.Embedding):
                module.weight.normal_()
            elif isinstance(module, torch.nn.Linear):
                module.weight.normal_(std=module.in_features**-0.5)
        for ffn in find_ffns(built):
            for linear in ffn.maps:
                linear.weight.normal_(std=0.3)
    return built


def write_model_and_texts(folder: Path, purposes: Iterable[str]) -> None:
    """A model in `folder`/model, and in `folder`/text six documents a purpose."""
    save(model(), tokenizer(), folder / "model")
    (folder / "text").mkdir()
    for purpose in purposes:
        lines = [
            json.dumps({"id": f"{purpose}-{i}", "text": f"{i} times " + " ".join(LINES)})
            for i in range(6)
        ]
        (folder / "text" / f"{purpose}.jsonl").write_text("\n".join(lines))
