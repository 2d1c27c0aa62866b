"""Nearest records of a picture, or of any other record, among those of a run: a table and a contact sheet."""
