"""`noise2music data prepare`: any audio with its texts to records that training reads.

sources.py lists tracks, clips.py decodes and cuts them, records.py writes and reads the shards,
texts.py makes a clip's text batch and the cache of embeddings, build.py joins them.
"""

from noise2music.data.prepare.build import PrepareOptions, PrepareReport, prepare

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]
