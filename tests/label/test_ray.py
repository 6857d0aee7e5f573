"""Two local nodes of Ray, one of which is killed in the middle: the files of one process."""

import os
import threading
import time
from pathlib import Path

import pytest
from noise2music.label.assign import AssignOptions, assign
from noise2music.label.ray_runner import RayRunner

ray = pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own, of many kinds

FILES = ("labels.jsonl", "labels.parquet", "manifest.jsonl", "report.json", "DATA_CARD.md")


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    here = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, here)))
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_node_that_is_killed_changes_no_file(tones, vocabularies, tmp_path, cluster):
    node = cluster.add_node(num_cpus=1)
    options = AssignOptions(
        encoder="slow_joint:SlowJoint", shard_tracks=1, shard_captions=16, shard_clips=8
    )
    work = tmp_path / "out" / "work"
    seen = []

    def kill():
        while len(list(work.glob("clips-*.done"))) < 6:
            time.sleep(0.01)
        cluster.remove_node(node, allow_graceful=False)
        seen.append(len(list(work.glob("clips-*.done"))))

    thread = threading.Thread(target=kill)
    thread.start()
    with RayRunner(cluster.address, 2) as runner:
        assign([tones], vocabularies, tmp_path / "out", options, runner=runner)
    thread.join()
    assert seen and seen[0] < 20  # it was killed while clips were heard
    assign([tones], vocabularies, tmp_path / "whole", options)
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_shard_that_fails_on_the_cluster_is_reported(tones, vocabularies, tmp_path, cluster):
    from noise2music.label.shards import ShardError

    # dying_joint needs a variable that no node has, so each clip raises KeyError.
    options = AssignOptions(encoder="dying_joint:DyingJoint", shard_tracks=10, retries=1)
    with RayRunner(cluster.address, 1) as runner:
        with pytest.raises(ShardError, match="2 of 2 shards failed 2 times: clips shard 0: KeyE"):
            assign([tones], vocabularies, tmp_path / "out", options, runner=runner)
