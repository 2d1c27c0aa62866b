"""Runs beside each other: what their folders say, and their paired differences over seeds."""
