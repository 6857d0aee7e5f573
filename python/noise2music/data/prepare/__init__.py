"""`noise2music data prepare`: any audio with its texts to records that training reads.

sources.py lists tracks, clips.py decodes and cuts them, records.py writes and reads the shards,
text_batch.py makes a clip's text batch, text_cache.py embeds all of them, build.py joins all.
"""

from noise2music.data.prepare.build import PrepareOptions, PrepareReport, prepare

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]
