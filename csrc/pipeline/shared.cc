// A shared library needs a source of its own; what it holds comes from the static ones.
