"""A local language model of transformers: a tiny one with random weights, made on the spot."""

import pytest
from noise2music.errors import UserError
from noise2music.label.mine.ask import ask_all
from noise2music.label.mine.models import LocalModel
from noise2music.label.mine.prompt import Song, messages, plain

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # its own, of many kinds


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    path = tmp_path_factory.mktemp("model")
    song = Song("Aria", "Nobody")
    text = plain(song) + " ".join(m["content"] for m in messages(song))
    pre = pre_tokenizers.Whitespace()
    words = dict.fromkeys(["<eos>", "<unk>", *(w for w, _ in pre.pre_tokenize_str(text))])
    words = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<eos>", unk_token="<unk>"
    )
    fast.save_pretrained(path)
    config = transformers.GPT2Config(
        vocab_size=len(words), n_positions=1024, n_embd=16, n_layer=1, n_head=2, eos_token_id=0,
        bos_token_id=0,
    )  # fmt: skip
    transformers.set_seed(0)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


def test_it_answers_the_same_each_time_and_says_when_it_was_cut(folder):
    model = LocalModel(str(folder), max_tokens=12)
    first, second = (model.describe(Song("Aria", "Nobody")) for _ in range(2))
    assert first == second and first.text.strip()
    assert not first.whole  # random weights do not end


def test_a_chat_format_is_used_where_there_is_one(folder):
    model = LocalModel(str(folder), max_tokens=5)
    bare = model._encode(Song("Aria", "Nobody"))
    model._tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    )
    chat = model._encode(Song("Aria", "Nobody"))
    assert chat.shape[0] == 1 and chat.shape != bare.shape
    assert model.describe(Song("Aria", "Nobody")).text.strip()


def test_it_goes_through_the_same_journal(folder, tmp_path):
    answered = ask_all([Song("Aria", "X"), Song("Aria", "Y")], LocalModel(str(folder)), tmp_path)
    assert len(answered.texts) == 2
    assert answered.troubles.keys() <= {"truncated", "rubbish", "refused"}


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no language model can be loaded"):
        LocalModel(str(tmp_path))
