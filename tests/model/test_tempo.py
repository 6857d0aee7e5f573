"""The tempo that a text states."""

import numpy as np
import pytest
from noise2music.data.corpus.captions import compose_prompt
from noise2music.text.tempo import stated_tempo


@pytest.mark.parametrize(
    "text,tempo",
    [
        ("techno at 128 BPM", 128),
        ("128bpm techno", 128),
        ("a 96.5-bpm groove", 96.5),
        ("waltz, 66 beats per minute", 66),
        ("about 90 beats a minute, then 120 bpm", 90),
        ("Tempo: 140, key: D minor", 140),
        ("tempo of 72", 72),
        ("BPM 100", 100),
        ("", 0),
        ("slow organ chorale in D minor", 0),
        ("8 bpm", 0),
        ("999 bpm of noise, but really 99 bpm", 99),
        ("music of the 1980s in 3/4", 0),
        ("opus 120, beats and rhymes", 0),
    ],
)
def test_stated_tempo(text, tempo):
    assert stated_tempo(text) == tempo


def test_every_prompt_of_the_judge_states_its_tempo():
    attributes = {
        "family": "organ", "instruments": ["church organ"], "genre": "chorale", "tempo_bpm": 66,
        "key": "D", "mode": "minor", "metre": "4/4", "register": "low", "dynamics": "soft",
        "drums": False, "source": "scores",
    }  # fmt: skip
    rng = np.random.default_rng(0)
    assert {stated_tempo(compose_prompt(attributes, rng)) for _ in range(200)} == {66.0}
