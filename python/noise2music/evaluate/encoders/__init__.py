"""Encoders of sound: which there are, by name, and how they are loaded.

``protocol``    what an encoder is, and the windows of a clip
``musicnn``     two taggers that run offline from a package of theirs, in numpy
``offline``     the encoders offered by default, on top of it
``adapters``    VGGish, TRILL, CLAP and MuQ-MuLan from a local folder or, only when asked, a hub
"""

from __future__ import annotations

from noise2music.evaluate.encoders.protocol import AudioEncoder, JointEncoder, load_encoder

__all__ = ["AudioEncoder", "JointEncoder", "load_encoder"]
