"""Measures of a feature space: pure functions of features and labels."""
