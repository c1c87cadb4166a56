"""Recovery: distillation that restores the quality lost by pruning, for all budgets in one run."""
