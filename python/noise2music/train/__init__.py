"""Training of one stage of the cascade: `noise2music train <stage>`."""

from noise2music.train.loop import TrainOptions, train

__all__ = ["TrainOptions", "train"]
