"""The judge of the tiny models: means that take no part in training them.

``hearing``   tempo and key of a clip, by librosa
``linear``    linear discriminant classifiers over tag logits and the layer below them
``corpus``    the corpus as the judge sees it, and the prompts composed from its test split
``features``  what is heard in a folder of clips, with a cache
``score``     hits, chance, permutation and binomial tests
``report``    the JSON report and its Markdown tables

The taggers (musicnn, in plain numpy) and the Frechet distance are the package's own, of
``noise2music.evaluate``.

Nothing here is imported by the package ``noise2music``, and nothing here feeds the training of a
generator: the taggers were trained by others on MagnaTagATune and the Million Song Dataset, tempo
and key come from signal processing, and the classifiers are fitted on real clips alone.
"""
