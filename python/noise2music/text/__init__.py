"""Text in: the tokenizer, the T5 encoder and the loader of published T5 checkpoints."""
