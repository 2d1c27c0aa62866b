"""A tokenizer of one's own, learned from the texts of a recipe."""
