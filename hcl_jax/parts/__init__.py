"""The parts that a recipe can name: what there is, with arguments and one line each."""
