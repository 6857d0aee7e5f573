"""The listening study: balance, blindness, scores, and what the server refuses and survives."""

import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
import soundfile
from fake_encoder import RATE, tone
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.evaluate.listen.scores import bradley_terry, scores, win_matrix
from noise2music.evaluate.listen.server import Server, results_page
from noise2music.evaluate.listen.study import Rating, Study
from noise2music.evaluate.sounds import Item

CAPTION = "<img src=x onerror=alert(1)> piano"
SECRET = "not part of the study"


def make_study(folder, sources=3, items=4):
    """Tones of one second named by their source; the first source has the captions."""
    sets = {}
    for s in range(sources):
        sets[f"source{s}"] = []
        for i in range(items):
            path = folder / f"source{s}" / f"{i}.wav"
            path.parent.mkdir(exist_ok=True)
            # Rates and lengths differ, as they may between models.
            soundfile.write(path, tone(200 + 50 * s, 1.0 + 0.1 * s, 16_000 + 8000 * s), RATE)
            sets[f"source{s}"].append(Item(str(i), path, f"{CAPTION} {i}" if s == 0 else ""))
    (folder / "secret.txt").write_text(SECRET)
    return Study.create(folder / "study", sets)


@pytest.fixture
def study(tmp_path):
    return make_study(tmp_path)


@pytest.fixture
def server(study):
    made = Server(study, seconds=1.0, key="key")
    made.start()
    yield made
    made.shutdown()
    made.server_close()


def ask(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    sent = {} if body is None else {"Content-Type": "application/json"}
    data = body if body is None or isinstance(body, bytes) else json.dumps(body)
    connection.request(method, path, data, sent | (headers or {}))
    answer = connection.getresponse()
    found = answer.read()
    connection.close()
    return answer.status, found


def rate_everything(study, rater, score=lambda trial: 4):
    rng = random.Random(rater)
    while (trial := study.next_trial(rater, rng)) is not None:
        study.rate(trial.id, rater, score(trial))


def test_pairs_orders_and_captions_are_balanced(study):
    for rater in ("a", "b"):
        for _ in range(6):
            trial = study.next_trial(rater, random.Random(0))
            study.rate(trial.id, rater, 3)
    ratings = study.ratings()
    assert set(Counter(tuple(sorted((r.left, r.right))) for r in ratings).values()) == {4}
    assert max(Counter((r.left, r.right) for r in ratings).values()) == 2
    comparisons = Counter((r.item, *sorted((r.left, r.right))) for r in ratings)
    assert len(comparisons) == 12 and max(comparisons.values()) == 1


def test_a_rater_gets_everything_once(study):
    rate_everything(study, "a")
    rated = [(r.item, *sorted((r.left, r.right))) for r in study.ratings()]
    assert len(rated) == len(set(rated)) == 12
    assert study.next_trial("a") is None
    assert study.next_trial("b").total == 12


def test_a_reload_gives_the_same_trial_and_a_rating_is_final(study):
    trial = study.next_trial("a")
    assert study.next_trial("a").id == trial.id
    study.rate(trial.id, "a", 2)
    study.rate(trial.id, "a", 2)  # sent twice
    assert len(study.ratings()) == 1
    for id, rater, score in ((trial.id, "a", 3), (trial.id, "b", 2), ("x", "a", 2)):
        with pytest.raises(KeyError):
            study.rate(id, rater, score)
    for score in (0, 6, True, "3", None, 2.0):
        with pytest.raises(ValueError, match="one of"):
            study.rate(trial.id, "a", score)


def test_what_cannot_be_a_study_is_refused(study, tmp_path):
    item = Item("0", tmp_path / "source0" / "0.wav", "words")
    for sources, message in (
        ({"a": [item]}, "at least 2 sources"),
        ({"a": [item], "b": [Item("1", item.path)]}, "no caption has clips of two sources"),
        ({"a": [item], "b": [Item("0", tmp_path / "no.wav")]}, "1 clips are not there"),
    ):
        with pytest.raises(UserError, match=message):
            Study.create(tmp_path / "other", sources)
    with pytest.raises(UserError, match="holds a study already"):
        Study.create(tmp_path / "study", {"a": [item], "b": [item]})
    with pytest.raises(UserError, match="holds no study"):
        Study(tmp_path)


def test_bradley_terry_finds_the_scores_that_made_the_wins():
    truth = np.array([1.0, 0.2, -0.2, -1.0])
    p = 1 / (1 + np.exp(truth[None] - truth[:, None]))
    np.fill_diagonal(p, 0)
    np.testing.assert_allclose(bradley_terry(1e5 * p), truth, atol=1e-3)
    # Two sources: theta_1 - theta_2 is the log odds.
    two = bradley_terry(np.array([[0, 3e4], [1e4, 0]]))
    assert two[0] - two[1] == pytest.approx(np.log(3), abs=1e-3)
    alone = bradley_terry(np.array([[0, 20], [0, 0]]))
    assert np.isfinite(alone).all() and alone[0] > 1
    assert bradley_terry(np.zeros((3, 3))).tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"wins must be \(k, k\)"):
        bradley_terry(np.zeros((2, 3)))


def test_wins_are_those_of_table_7():
    ratings = [
        Rating("r", "0", "a", "b", 1),
        Rating("r", "1", "b", "a", 5),
        Rating("r", "2", "a", "b", 3),
        Rating("r", "3", "a", "b", 4),
    ]
    assert win_matrix(ratings, ["a", "b"]).tolist() == [[0, 2.5], [1.5, 0]]
    first, second = scores(ratings, ["a", "b"], draws=50)
    assert (first.source, first.comparisons, first.wins, first.ties) == ("a", 4, 2, 1)
    assert (second.source, second.wins) == ("b", 1)
    assert first.low <= first.theta <= first.high
    assert [s.theta for s in scores([], ["a", "b"], draws=2)] == [0, 0]


def test_no_clip_is_revealed(server):
    _, answer = ask(server, "POST", "/api/next", {"rater": "a"})
    trial = json.loads(answer)
    assert set(trial) == {"trial", "caption", "done", "total"}
    assert b"source" not in answer
    sizes = set()
    for side in ("left", "right"):
        status, sound = ask(server, "GET", f"/clip/{trial['trial']}/{side}")
        assert status == 200 and b"source" not in sound
        sizes.add(len(sound))
    assert sizes == {44 + 2 * RATE}  # one length and one rate, nothing beside the samples


def test_nothing_outside_the_study_is_readable(server):
    _, answer = ask(server, "POST", "/api/next", {"rater": "a"})
    trial = json.loads(answer)["trial"]
    for path in (
        "/../secret.txt", "/..%2f..%2fsecret.txt", "/clip/../secret.txt", "/study.db",
        "/clip/..%2f..%2fsecret.txt/left", f"/clip/{trial}/..%2fsecret.txt", "/page.py",
        f"/clip/{trial}/left%27%20OR%201=1", f"/clip/{trial}/path", f"/clip/{trial}/left/x",
        "//etc/passwd", "/%00", "/server.py", "/clip//left",
    ):  # fmt: skip
        status, found = ask(server, "GET", path)
        assert status == 404, path
        assert SECRET.encode() not in found
    assert ask(server, "GET", "/results")[0] == 403
    assert ask(server, "GET", "/results?key=wrong")[0] == 403


def test_a_clip_that_was_moved_is_told_without_its_name(server, tmp_path):
    trial = json.loads(ask(server, "POST", "/api/next", {"rater": "a"})[1])["trial"]
    for path in tmp_path.glob("source*/*.wav"):
        path.unlink()
    status, found = ask(server, "GET", f"/clip/{trial}/left")
    assert status == 410 and b"source" not in found


def test_foreign_and_broken_requests_are_refused(server):
    good = {"rater": "a"}
    assert ask(server, "GET", "/", headers={"Host": "evil.example"})[0] == 403
    assert ask(server, "POST", "/api/next", good, {"Host": "evil.example"})[0] == 403
    assert ask(server, "POST", "/api/next", good, {"Content-Type": "text/plain"})[0] == 415
    assert ask(server, "POST", "/api/next", b"x" * 5000)[0] == 413
    for body in (b"", b"[]", b"{", b"\xff", {"rater": ""}, {"rater": "x" * 65}, {"rater": 1}, {}):
        assert ask(server, "POST", "/api/next", body)[0] == 400, body
    assert ask(server, "POST", "/api/rate", {"rater": "a", "trial": "x", "score": 1})[0] == 404
    assert ask(server, "POST", "/api/other", good)[0] == 404
    assert ask(server, "GET", "/")[0] == 200


def test_the_page_may_load_nothing_foreign(server):
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.getheader("Content-Security-Policy").startswith("default-src 'self'")
    assert answer.getheader("X-Content-Type-Options") == "nosniff"
    connection.close()


def test_names_are_escaped_in_the_results(study):
    rate_everything(study, "<script>alert(1)</script>")
    page = results_page(study)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert "12 ratings by 1 raters" in page


def test_four_raters_at_once(server):
    """Each rates everything; none of the 48 ratings is lost or doubled, and pairs stay even."""

    def rater(name):
        while True:
            trial = json.loads(ask(server, "POST", "/api/next", {"rater": name})[1])
            if trial["trial"] is None:
                return
            body = {"rater": name, "trial": trial["trial"], "score": 2}
            assert ask(server, "POST", "/api/rate", body)[0] == 200

    threads = [threading.Thread(target=rater, args=(f"rater{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ratings = server.study.ratings()
    assert len(ratings) == 48
    assert len({(r.rater, r.item, *sorted((r.left, r.right))) for r in ratings}) == 48
    assert max(Counter((r.left, r.right) for r in ratings).values()) <= 9


def test_a_killed_server_loses_no_rating(study, tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from noise2music.evaluate.listen.server import Server\n"
        "from noise2music.evaluate.listen.study import Study\n"
        "server = Server(Study(Path(sys.argv[1])))\n"
        "print(server.server_address[1], flush=True)\n"
        "server.serve_forever()\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "study")]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    class Address:
        server_address = ("127.0.0.1", int(child.stdout.readline()))

    kept = 0
    for _ in range(5):
        trial = json.loads(ask(Address, "POST", "/api/next", {"rater": "a"})[1])
        body = {"rater": "a", "trial": trial["trial"], "score": 5}
        kept += ask(Address, "POST", "/api/rate", body)[0] == 200
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert kept == 5 and len(study.ratings()) == 5
    assert study.next_trial("a").done == 5


def test_the_command(tmp_path, capsys):
    make_study(tmp_path)
    assert main(["evaluate", "listen", str(tmp_path / "study"), "--results"]) == 0
    assert "Bradley-Terry" in capsys.readouterr().out
    rows = [{"audio": f"{i}.wav", "id": i, "prompt": "x"} for i in range(4)]
    (tmp_path / "source0" / "manifest.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sources = [f"{name}={tmp_path / name}" for name in ("source0", "source1")]
    command = ["evaluate", "listen", str(tmp_path / "second"), "--results", "--source", *sources]
    assert main(command) == 0
    assert Study(tmp_path / "second").sources == ["source0", "source1"]
    assert main(["evaluate", "listen", str(tmp_path / "third"), "--source", "x"]) == 2
