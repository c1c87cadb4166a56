"""A kit as MLflow serves it ("models from code": MLflow runs this file to load it)."""

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from lop.kit import Kit


class PlanModel(PythonModel):
    """Input: column `ratio`. Output: columns `ratios` and `kept`, with one entry for each site."""

    def load_context(self, context):  # type: ignore[no-untyped-def] # MLflow requires this signature
        self.predictor = Kit.load(context.artifacts["kit"]).predictor

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        plans = [self.predictor.plan(float(ratio)) for ratio in model_input["ratio"]]
        columns = {"ratios": [list(p.ratios) for p in plans], "kept": [list(p.kept) for p in plans]}
        return pd.DataFrame(columns)


set_model(PlanModel())
