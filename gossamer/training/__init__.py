"""Fitting weights by gradients."""
