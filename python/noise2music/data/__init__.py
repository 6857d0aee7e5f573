"""Data: the rendered corpus and what reads it. Nothing heavy is imported here."""
