"""The fleet page: what the registry holds, whether it keeps its budgets, and what runs."""
