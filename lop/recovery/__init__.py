"""Recovery: distillation that gives back what pruning costs, at all budgets in one run."""
