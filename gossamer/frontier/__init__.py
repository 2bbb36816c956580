"""The search: a budget and a text in, a Pareto front of recipes out, predicted and then verified."""
