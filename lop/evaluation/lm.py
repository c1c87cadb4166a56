"""lm-eval's model class for images and text, with likelihoods, and with support for models and
questions without pictures.

Defects of `hf-multimodal` upstream (lm-eval 0.4.13, lm_eval/models/hf_vlms.py):

- `loglikelihood` raises NotImplementedError, so that no `multiple_choice` task runs. The code after
  the raise does not work either: it converts the processor's picture sizes to the model's dtype,
  pads without an attention mask, drops processor outputs other than pictures, and takes logits from
  wrong positions of a padded batch, because it checks for the class of a text model.
- The templated text is tokenized with a BOS of the tokenizer's before that of the template, and a
  prompt that is too long is cut through its pictures.
- `_encode_multimodal_pair` moves the line break that ends a chat template to the answer.
- Pictures go through the vision tower once for each question, and would once for each choice
  (`lop.models.vision` changes that).
- A full garbage collection runs after each batch, over everything ever imported: 2.4 of 6.2 s for
  640 samples of a 2 M-parameter model on one thread.
- Progress bars cannot be switched off.
- It requires a processor, and a picture with every question.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lm_eval.models.hf_vlms import HFMultimodalLM
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from lop.data.batching import Fitting
from lop.data.chat import IMAGE, answer_ids, ask, chat, stop_tokens, tokenize, tokenizer_of
from lop.data.encoding import append_tokens
from lop.errors import LopError
from lop.models.checkpoint import load_processor

_Prompt = tuple[str, tuple[int, ...]]  # text, and its pictures
_Pass = tuple[_Prompt, tuple[int, ...]]  # and the answer tokens after it


class LikelihoodLM(HFMultimodalLM):
    """`hf-multimodal` with `loglikelihood`, and with lop's prompts (`lop.data.chat`).

    It also accepts text models. Raises LopError with the row if a question is longer than the
    model's context.
    """

    processor: Any

    def __init__(self, pretrained: PreTrainedModel, **options: Any) -> None:
        # the picture placeholder in a prompt; upstream's default is from the config
        super().__init__(pretrained, image_string=IMAGE, **options)
        self.stops = stop_tokens(self.model, self.processor)
        self._rows: dict[str, Any] = {}  # question -> its row in the task's data
        self._fitting = Fitting(self.batch_size)

    def _create_tokenizer(self, pretrained: PreTrainedModel, *_: Any, **__: Any) -> None:
        self.processor = load_processor(str(pretrained.name_or_path))
        self.tokenizer = tokenizer_of(self.processor)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A single user turn, with the prompt of `lop.data.encoding`."""
        self.chat_applied = True
        (turn,) = chat_history
        return ask(self.processor, _content(turn["content"]))

    def tok_batch_multimodal_encode(
        self, strings: list[str], images: list[Any], *args: Any, **options: Any
    ) -> Any:
        """A batch padded on the left; nothing is truncated."""
        encoding = tokenize(self.processor, strings, images, padding_side="left")
        for text, length in zip(strings, encoding["attention_mask"].sum(1).tolist(), strict=True):
            if length > self.max_length:
                raise LopError(
                    f"row {self._rows.get(text)}: a question of {length} tokens; the model takes "
                    f"at most {self.max_length}"
                )
        return encoding.to(self.device, self.model.dtype)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The generated answers; questions with pictures and those without are in separate batches.

        Upstream gets one batch at a time, in its own order, because it cannot reduce the batch size
        when memory runs out.
        """
        self._know(requests)
        generate, answers = super().generate_until, [""] * len(requests)
        texts = [request.args[0] for request in requests]
        order = sorted(range(len(texts)), key=lambda i: (-len(self.tok_encode(texts[i])), texts[i]))
        with tqdm(total=len(requests), disable=disable_tqdm or None) as bar:
            for seeing in (True, False):
                of = [i for i in order if bool(requests[i].args[2]["visual"]) == seeing]

                def answer(part: slice, of: list[int] = of) -> int:
                    some = [requests[i] for i in of[part]]
                    for i, found in zip(of[part], generate(some, disable_tqdm=True), strict=True):
                        answers[i] = found
                    return len(some)

                for count in self._fitting(len(of), answer):
                    bar.update(count)
        return answers

    def _model_multimodal_generate(
        self, inputs: Any, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        start = inputs["input_ids"].shape[1]
        options["eos_token_id"] = self.stops
        most = min(max_length, max(self.max_length, start + 1))
        output = super()._model_multimodal_generate(inputs, most, stop, **options)
        # the stop token is not part of an answer, even if it is not a special token
        answers = output[:, start:]
        stops = torch.tensor(self.stops, device=output.device)
        answers[torch.isin(answers, stops).cumsum(1) > 0] = self.tokenizer.pad_token_id
        return output

    def _know(self, requests: list[Any]) -> None:
        self._rows = {request.args[0]: request.doc_id for request in requests}

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy decoding gives it.

        Answers to a question share a forward pass if one is a prefix of another: all answers of a
        single token, such as letters, need only one pass.
        """
        self._know(requests)
        asked: dict[_Prompt, list[tuple[int, list[int]]]] = {}  # -> (request, its tokens)
        pictures: dict[_Prompt, list[Any]] = {}
        for i, request in enumerate(requests):
            context, continuation, rest = request.args
            prompt = (context, tuple(map(id, rest["visual"])))
            answer = chat(self.processor).lead + continuation.lstrip()
            tokens = answer_ids(self.processor, context, answer)
            asked.setdefault(prompt, []).append((i, tokens))
            pictures[prompt] = rest["visual"]
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        passes = [(prompt, fed) for prompt, of in asked.items() for fed in _longest(of)]
        # sorted by length, longest first, so that batches have little padding
        passes.sort(key=lambda one: (-len(one[0][0]), one[0][0], one[1]))

        def judge(part: slice) -> int:
            chosen = passes[part]
            logits = self._answer_logits(chosen, [pictures[prompt] for prompt, _ in chosen])
            for (prompt, fed), of in zip(chosen, logits, strict=True):
                for i, tokens in asked[prompt]:
                    if tuple(tokens[:-1]) == fed[: len(tokens) - 1]:
                        found[i] = _likelihood(of[-1 - len(fed) :][: len(tokens)], tokens)
            return len(chosen)

        with tqdm(total=len(passes), disable=disable_tqdm or None) as bar:
            for count in self._fitting(len(passes), judge):
                bar.update(count)
        return found

    @torch.inference_mode()
    def _answer_logits(self, passes: list[_Pass], pictures: list[list[Any]]) -> Tensor:
        """Log-probabilities (B, longest + 1, vocab) of the token after a prompt and after each
        answer token, aligned right: the last row is for the token after the last one."""
        prompts = self.tok_batch_multimodal_encode([prompt[0] for prompt, _ in passes], pictures)
        fed = [list(tokens) for _, tokens in passes]
        inputs = append_tokens(self.model, prompts, fed, "left")
        rows = 1 + max(map(len, fed))
        logits = self.model(**inputs, use_cache=False, logits_to_keep=rows).logits
        return logits[:, -rows:].float().log_softmax(-1)


def _content(text: str) -> list[dict[str, Any]]:
    """A task's prompt as the parts of a turn: a picture for each `<image>`, and text."""
    parts: list[dict[str, Any]] = []
    for i, part in enumerate(text.split(IMAGE)):
        if i:
            parts.append({"type": "image"})
        if part:
            parts.append({"type": "text", "text": part})
    return parts


def _longest(asked: list[tuple[int, list[int]]]) -> list[tuple[int, ...]]:
    """The token sequences to run after a prompt for all its answers: each answer without its last
    token, except those that are prefixes of others."""
    fed = {tuple(tokens[:-1]) for _, tokens in asked}
    return [a for a in sorted(fed) if not any(a != b and b[: len(a)] == a for b in fed)]


def _likelihood(logits: Tensor, tokens: list[int]) -> tuple[float, bool]:
    ids = torch.tensor(tokens, device=logits.device)
    total = logits.gather(1, ids[:, None]).sum()
    return float(total), bool((logits.argmax(-1) == ids).all())


@contextmanager
def light() -> Iterator[None]:
    """Switch off slow parts of lm-eval that change no answer, and progress bars without a terminal.

    Garbage collection skips frozen objects.
    """
    import lm_eval.api.task
    import lm_eval.models.hf_vlms
    import lm_eval.models.huggingface

    for module in (lm_eval.api.task, lm_eval.models.hf_vlms, lm_eval.models.huggingface):
        vars(module)["tqdm"] = _bar
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _bar(*args: Any, **kwargs: Any) -> tqdm:
    """A progress bar that shows only on a terminal; lm-eval's cannot be switched off."""
    return tqdm(*args, **{**kwargs, "disable": None})
