"""Captions for unlabelled music (section 3.5): the top K captions of a joint embedding, balanced.

``vocabulary``  lists of captions: read, written, made of the corpus' grammar or of raters' captions
``mine``        the vocabulary that a language model writes, and the filters that clean it
``rows``        embeddings on disk, read block by block
``topk``        the K nearest captions of every clip, exactly
``balance``     how often a caption is chosen, and the draw that evens it out
``assign``      all of it over shards: in this process, in several, or on Ray
``duplicates``  is a clip a copy of one in the training set?
"""
