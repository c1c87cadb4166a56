"""A checkpoint as an MLflow model ("models from code": MLflow runs this file to load it)."""

from typing import Any

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

import lop
from lop.data.chat import check_processor, stop_tokens
from lop.data.encoding import prompt_tensors
from lop.data.matching import MOST_TOKENS


class AnswerModel(PythonModel):
    """Input: columns `question`, and optionally `image` (bytes) and `choices`. Output: `answer`.

    The parameter `max_new_tokens` limits the length of an answer.
    """

    def load_context(self, context):  # type: ignore[no-untyped-def] # MLflow requires this signature
        named = (context.model_config or {}).get("checkpoint")  # large checkpoints are not copied
        path = named or context.artifacts["checkpoint"]
        self.model, self.processor = lop.load(path), lop.load_processor(path)
        check_processor(self.processor)
        self.stops = stop_tokens(self.model, self.processor)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        longest = int((params or {}).get("max_new_tokens", MOST_TOKENS))
        answers = [self._answer(row, longest) for row in model_input.to_dict("records")]
        return pd.DataFrame({"answer": answers})

    @torch.no_grad()
    def _answer(self, row: dict[str, Any], longest: int) -> str:
        """The greedy answer to one question, generated as in lm-eval."""
        given = {k: v for k, v in row.items() if v is not None and not isinstance(v, float)}
        images = [{"bytes": given["image"]}] if "image" in given else []
        sample = row | {"images": images, "choices": given.get("choices")}
        inputs = prompt_tensors(self.processor, [sample], padding_side="left")
        inputs = inputs.to(self.model.device, self.model.dtype)
        output = self.model.generate(
            **inputs,
            do_sample=False,
            repetition_penalty=1.0,
            max_new_tokens=longest,
            eos_token_id=self.stops,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        (answer,) = self.processor.batch_decode(new, skip_special_tokens=True)
        return str(answer).strip()


set_model(AnswerModel())
