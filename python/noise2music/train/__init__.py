"""Training of one stage of the cascade: `noise2music train <stage>`."""

from noise2music.train.loop import train
from noise2music.train.options import TrainOptions

__all__ = ["TrainOptions", "train"]
