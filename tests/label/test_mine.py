"""A language model that times out, refuses, truncates or answers rubbish: counted, nothing lost."""

import json
import time

import pytest
from fake_server import serving
from noise2music.cli import main
from noise2music.errors import UserError
from noise2music.label.mine.ask import AskOptions, ask_all
from noise2music.label.mine.clean import FILTERS, clean
from noise2music.label.mine.models import Endpoint
from noise2music.label.mine.prompt import Song, messages, plain, read_songs

FAST = AskOptions(attempts=4, backoff=0.01, parallel=3)
TITLES = [f"Song {i}" for i in range(12)]
SONGS = [Song(title, "Nobody") for title in TITLES]


def ask(server, work, options=FAST, songs=SONGS, **more):
    return ask_all(songs, Endpoint(server.url, "small", timeout=0.2, **more), work, options)


def test_every_trouble_is_retried_and_counted(tmp_path):
    steps = ["timeout", "rubbish", "not json", "empty", "truncated", "cut", "refused", "filtered"]
    steps += ["unknown", "429", "500", "503"]
    with serving({title: [step] for title, step in zip(TITLES, steps, strict=True)}) as server:
        answered = ask(server, tmp_path)
    assert all(text.startswith("A calm piano tune") for text in answered.texts)
    assert answered.failed == {}
    assert answered.troubles == {
        "timeout": 1, "rubbish": 3, "truncated": 1, "broken off": 1, "refused": 3, "429": 1,
        "500": 1, "503": 1,
    }  # fmt: skip
    assert len(server.requests) == 24 and answered.asked_now == 12


def test_what_never_works_is_reported_by_its_reason_and_the_rest_is_there(tmp_path):
    plan = {
        "Song 2": ["refused"] * 4,
        "Song 5": ["500"] * 4,
        "Song 7": ["429", "500", "refused", "cut"],
    }
    with serving(plan) as server:
        answered = ask(server, tmp_path)
    missing = [i for i, text in enumerate(answered.texts) if text is None]
    assert missing == [2, 5, 7]
    assert answered.failed == {"refused": 1, "500": 1, "broken off": 1}
    assert sum(answered.troubles.values()) == 12
    # Every song is in the journal: answers and failures.
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sorted(line["title"] for line in lines) == sorted(TITLES)


def test_a_truncated_answer_is_cut_at_its_last_whole_sentence(tmp_path):
    with serving({"Song 0": ["truncated"] * 4}) as server:
        answered = ask(server, tmp_path, songs=SONGS[:1])
    assert answered.texts == ["A calm piano tune with 0 gnoS soft drums."]
    assert answered.troubles == {"truncated": 4} and answered.failed == {}


def test_a_second_run_asks_only_for_what_has_no_answer(tmp_path):
    with serving({"Song 3": ["500"] * 4}) as server:
        first = ask(server, tmp_path)
        assert first.failed == {"500": 1}
        again = ask(server, tmp_path)
    assert again.asked_now == 1 and again.failed == {} and again.troubles == {"500": 4}
    assert [t for _, t, *_ in server.requests[-1:]] == ["Song 3"]
    with serving({}) as server:
        assert ask(server, tmp_path).texts == again.texts
        assert server.requests == []


def test_a_journal_that_a_kill_cut_short_goes_on(tmp_path):
    with serving({}) as server:
        whole = ask(server, tmp_path)
        path = tmp_path / "answers.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(lines[:5]) + lines[5][:20])
        again = ask(server, tmp_path)
    assert again.texts == whole.texts and again.asked_now == 7


def test_the_server_says_how_long_to_wait(tmp_path):
    with serving({"Song 0": [("429", 1)]}) as server:
        ask(server, tmp_path, songs=SONGS[:1])
    (first, *_), (second, *_) = server.requests
    assert second - first >= 0.99


def test_requests_keep_their_distance(tmp_path):
    options = AskOptions(attempts=1, parallel=4, per_minute=1200)
    with serving({}) as server:
        ask(server, tmp_path, options, SONGS[:6])
    times = sorted(t for t, *_ in server.requests)
    assert times[-1] - times[0] >= 5 * 0.05 * 0.9


def test_what_is_sent_is_the_protocols(tmp_path):
    with serving({}) as server:
        ask(server, tmp_path, songs=SONGS[:1], key="secret", max_tokens=77)
    _, _, path, body, headers = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "small" and body["max_tokens"] == 77
    roles = [m["role"] for m in body["messages"]]
    assert roles[0] == "system" and roles[1:] == ["user", "assistant"] * 4 + ["user"]
    assert body["messages"][-1]["content"] == '"Song 0" by Nobody:'


@pytest.mark.parametrize("status", ["401", "404", "400"])
def test_a_request_that_can_never_work_ends_the_run_at_once(tmp_path, status):
    with serving({"Song 0": [status] * 9}) as server:
        began = time.monotonic()
        with pytest.raises(UserError, match=f"refuses the request: {status}"):
            ask(server, tmp_path, AskOptions(attempts=9, parallel=1), SONGS[:3])
        assert len(server.requests) == 1 and time.monotonic() - began < 5


def test_no_server_is_counted_too(tmp_path):
    answered = ask_all(SONGS[:2], Endpoint("http://127.0.0.1:1/v1", "x"), tmp_path, FAST)
    assert answered.texts == [None, None] and answered.failed == {"unreachable": 2}
    with pytest.raises(UserError, match="must be http"):
        Endpoint("ftp://x", "x")


ANSWER = """Here is what I know. "Paper Moon" is a slow jazz ballad with soft piano chords.
A gentle brushed snare drum keeps the beat. A gentle, brushed snare drum keeps the beat!
It was released in 1954 on an album by the band. The Owls play a swinging saxophone riff.
Piano. Der langsame Bass trägt die Melodie der Straße. I cannot describe the guitar of this song.
The weather in the city is nice today. **A walking bass line** supports the female vocal.
"""


def test_each_filter_drops_what_it_is_for_and_counts_it():
    found = clean([(Song("Paper Moon", "The Owls"), ANSWER)])
    assert found.captions == [
        "A gentle brushed snare drum keeps the beat.",
        "A walking bass line supports the female vocal.",
    ]
    assert found.sentences == 11 == len(found.captions) + sum(found.dropped.values())
    assert found.dropped == {
        "refusal": 1, "name": 2, "length": 1, "language": 1, "fact": 1, "not music": 2,
        "near duplicate": 1,
    }  # fmt: skip
    assert set(found.examples) == set(FILTERS)
    assert found.examples["near duplicate"] == ["A gentle, brushed snare drum keeps the beat!"]


def test_near_duplicates_are_found_across_songs_and_distinct_captions_stay():
    base = "A slow acoustic guitar plays calm chords under the warm female voice number {}."
    songs = [(Song(f"T{i}", "X"), base.format(i)) for i in range(5)]
    assert len(clean(songs).captions) == 1
    kinds = ["piano", "violin", "trumpet", "harp", "organ", "flute"]
    different = [
        (Song("T", "X"), f"A {a} answers the {b} in this tune.")
        for a in kinds
        for b in kinds
        if a < b
    ]
    assert len(clean(different).captions) == 15


def test_songs_are_read_from_tables(tmp_path):
    (tmp_path / "s.csv").write_text('title,artist\n"A, b",C\nD,\nD,\n')
    (tmp_path / "s.tsv").write_text("artist\ttitle\nC\tA\n")
    (tmp_path / "s.jsonl").write_text('{"title": "A", "artist": "C"}\n')
    assert read_songs(tmp_path / "s.csv") == [Song("A, b", "C"), Song("D", "")]
    assert read_songs(tmp_path / "s.tsv") == read_songs(tmp_path / "s.jsonl") == [Song("A", "C")]
    assert messages(Song("D", ""))[-1]["content"] == '"D":'
    assert plain(Song("D", "")).endswith('\n\n"D":\n')
    (tmp_path / "bad.csv").write_text("name\nx\n")
    with pytest.raises(UserError, match="with title and artist"):
        read_songs(tmp_path / "bad.csv")


def test_the_command_from_songs_to_a_vocabulary_and_its_report(tmp_path, capsys):
    songs = tmp_path / "songs.csv"
    songs.write_text("title,artist\n" + "".join(f"{t},Nobody\n" for t in TITLES))
    kinds = ["harp", "oboe", "viola", "cello", "flute", "organ", "banjo", "bells", "drums", "choir"]
    answers = {t: f"A bright {k} plays over the beat." for t, k in zip(TITLES, kinds, strict=False)}
    answers |= dict.fromkeys(TITLES[10:], answers[TITLES[0]])
    args = ["label", "vocab", "lm", "--songs", str(songs), "--model", "small", "--attempts", "1"]
    with serving({"Song 4": ["refused"]}, answers) as server:
        args += ["--out", str(tmp_path / "lf.txt"), "--endpoint", server.url]
        assert main(args) == 1
        assert "12 songs: 11 answered, 1 not" in capsys.readouterr().out
        assert main(args) == 0
    captions = (tmp_path / "lf.txt").read_text().splitlines()
    assert len(captions) == 10 and captions[0] == "A bright harp plays over the beat."
    about = json.loads((tmp_path / "lf.json").read_text())
    assert about["attempts_that_failed"] == {"refused": 1} and about["unanswered"] == {}
    assert about["sentences"] == 12 and about["filters"]["near duplicate"] == 2
    assert main([*args, "--key-variable", "NO_SUCH_KEY"]) == 2
    assert main(args[:3] + ["--out", "x.txt"]) == 2
