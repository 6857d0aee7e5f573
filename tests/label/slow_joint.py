"""FakeJoint, slow enough to be killed between two shards."""

import dataclasses
import time

from fake_joint import FakeJoint


@dataclasses.dataclass(frozen=True)
class SlowJoint(FakeJoint):
    name: str = "slow_joint"

    def embed(self, samples):
        time.sleep(0.02)
        return super().embed(samples)

    def embed_text(self, texts):
        time.sleep(0.1)
        return super().embed_text(texts)
