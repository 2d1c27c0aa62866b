"""A page on one run or several: curves, results, views, features, neighbours, confusion and card in one HTML file."""
