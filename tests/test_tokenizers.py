"""Tokenizers as people have them: what a prompt ends in, and one line for those that do not read it or are another model's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from conftest import ROOT, fails, random_model
from gguf_files import write_gguf

from lab import checkpoints, engine, models, pooling, questions, runs

CPU = torch.device("cpu")
FIRST, END = "!", "<|endoftext|>"  # tokens that the embedded tokenizer has


def changed(path: Path, change) -> Path:
    """Change a folder's tokenizer.json in place."""
    content = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    change(content)
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def configured(path: Path, **changes) -> None:
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def marking(before: list[str], after: list[str]):
    """A post-processor that puts these tokens around a text."""

    def change(content: dict) -> None:
        vocabulary = content["model"]["vocab"] | {token["content"]: token["id"] for token in content["added_tokens"]}
        pieces = {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in {*before, *after}}
        around = [[{"SpecialToken": {"id": name, "type_id": 0}} for name in names] for names in (before, after)]
        text = {"Sequence": {"id": "A", "type_id": 0}}
        content["post_processor"] |= {"single": [*around[0], text, *around[1]], "special_tokens": pieces}

    return change


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def copy(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "copy")


@pytest.mark.parametrize("before", [[], [FIRST], [FIRST, FIRST]])
def test_nothing_is_appended_and_what_comes_first_stays(sound, copy, before):
    changed(copy, marking(before, [END]))
    (end,) = models.load_tokenizer(checkpoints.find_model(str(sound))).convert_tokens_to_ids([END])
    assert transformers.AutoTokenizer.from_pretrained(copy)("five")["input_ids"][-1] == end  # the case is what it says
    plain, tokenizer = (models.load_tokenizer(checkpoints.find_model(str(path))) for path in (sound, copy))
    first = plain.convert_tokens_to_ids(before)
    text = "Question: five apples\nAnswer:"
    assert tokenizer(text)["input_ids"] == first + plain(text)["input_ids"]
    assert tokenizer("")["input_ids"] == first
    batch = tokenizer([text, "five"], return_tensors="pt", padding=True)
    assert batch["input_ids"][1, -1] == plain("five")["input_ids"][-1]
    assert batch["attention_mask"][1].sum() == len(first) + len(plain("five")["input_ids"])


def test_what_comes_first_is_no_part_of_a_question(copy):
    """Phase 2 pools the question's tokens; without exemplars what stands before them is the beginning-of-text token."""
    changed(copy, marking([FIRST], []))
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([copy / "problems.jsonl"], list(languages), limit=2)
    model, tokenizer = models.load_model(checkpoints.find_model(str(copy)), CPU, torch.float32)
    asked = questions.Asked(languages, [], problems, [], {})
    pooled = pooling.capture(model, tokenizer, asked, range(6), 4, "test").vectors
    prompt = questions.prompt_text(problems[1], "zh", languages)
    ((_, ids, streams),) = models.residual_streams(model, tokenizer, [prompt], range(6), 1)
    assert tokenizer.convert_ids_to_tokens(ids.tolist())[0] == FIRST
    torch.testing.assert_close(torch.from_numpy(pooled[1, 1, :, 0]), streams[:, 1:].mean(1), rtol=1e-4, atol=1e-5)


def test_a_model_answers_alike_whatever_its_tokenizer_appends(tmp_path):
    """The embedded model knows the answers; with an end of text behind the prompt it would begin another one."""
    path = shutil.copytree(ROOT / "tiny", tmp_path / "tiny")
    changed(path, marking([], [END]))
    languages = questions.load_languages(["en", "zh"])
    problems = questions.load_problems([path / "problems.jsonl"], ["en", "zh"], limit=4)
    prompts = [questions.prompt_text(problem, language, languages) for problem in problems for language in languages]
    answers = []
    for folder in (ROOT / "tiny", path):
        model, tokenizer = models.load_model(checkpoints.find_model(str(folder)), CPU, torch.float32)
        answers.append(models.generate(model, tokenizer, prompts, 6, batch=8))
    assert answers[0] == answers[1]
    assert len(set(answers[0])) > 4


def test_an_end_that_cannot_be_taken_off_is_refused(sound, monkeypatch):
    class Slow:
        unk_token_id = None

        def __call__(self, text, add_special_tokens=True, verbose=True):
            return {"input_ids": [5, 6] + [0] * add_special_tokens}

        def convert_ids_to_tokens(self, ids):
            return list(map(str, ids))

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(
        runs.UserError, match=r"makes \['5', '6', '0'\] of '1 a', and what it appends cannot be taken off"
    ):
        models.load_tokenizer(checkpoints.find_model(str(sound)))


@pytest.mark.parametrize("family", ["qwen2", "llama", "gemma3_text", "gpt_neox"])
def test_no_tokenizer_files_are_one_line(script, tmp_path, capsys, family):
    """transformers makes an empty tokenizer for some of these families, and fails in its own ways for others."""
    path = random_model(tmp_path / family, family)
    for file in path.glob("tokenizer*"):
        file.unlink()
    line = fails(script, capsys, "phase0_behavioral.py", "--model", path, "--device", "cpu", "--out", tmp_path / "out")
    assert f"{path}: no usable tokenizer" in line


def without_chinese(content: dict) -> None:
    content["model"]["vocab"] = {
        token: number for token, number in content["model"]["vocab"].items() if token.isascii() or "Ġ" in token
    }
    content["model"]["merges"] = [
        pair for pair in content["model"]["merges"] if {*pair, "".join(pair)} <= content["model"]["vocab"].keys()
    ]


def words_only(content: dict) -> None:
    words = {"[UNK]": 1, "Tom": 2, "apples": 3, "how": 4, "five": 5, "1": 6, "a": 7, "How": 8, "many": 9}
    content["model"] = {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"}
    content |= {"pre_tokenizer": {"type": "Whitespace"}, "decoder": None}


@pytest.mark.parametrize("kind", ["no tokens", "unknown tokens"])
def test_a_language_that_is_not_read_is_named(script, copy, tmp_path, capsys, kind):
    changed(copy, without_chinese if kind == "no tokens" else words_only)
    if kind == "unknown tokens":
        configured(copy, tokenizer_class="TokenizersBackend", unk_token="[UNK]")
        random_model(tmp_path / "other", "mistral")  # a family whose tokenizer is what its file says
        for file in copy.glob("tokenizer*"):
            shutil.copy(file, tmp_path / "other" / file.name)
        copy = tmp_path / "other"
    flags = ["--model", copy, "--device", "cpu", "--limit", "2", "--out", tmp_path / "out"]
    line = fails(script, capsys, "phase0_behavioral.py", *flags)
    assert "--languages zh: this model's tokenizer makes nothing but unknown tokens of its letters" in line


@pytest.mark.parametrize("name", ["pad", "bos", "eos"])
def test_a_special_token_beyond_the_embedding_is_named(script, copy, tmp_path, capsys, name):
    configured(copy, **{f"{name}_token": "<|new|>"})
    line = fails(script, capsys, "phase0_behavioral.py", "--model", copy, "--device", "cpu", "--out", tmp_path / "out")
    assert f"{name}_token '<|new|>' is number 682, but the embedding has 682 rows: name one" in line


def test_a_token_beyond_the_embedding_counts_where_a_text_makes_it(copy):
    """Gemma 3's text models have a token for images, and no row for it."""

    def one_more(content: dict) -> None:
        content["added_tokens"].append(content["added_tokens"][0] | {"id": 682, "content": "<image>"})

    model, tokenizer = models.load_model(checkpoints.find_model(str(changed(copy, one_more))), CPU, torch.float32)
    assert len(tokenizer) == 683 and models.embedding_rows(model) == 682
    assert models.generate(model, tokenizer, ["five"], 2, 1)
    prompts, line = (
        ["five", "five <image>"],
        "makes token 682 of a text asked here, but the model's embedding has 682 rows",
    )
    for ask in (
        lambda: models.generate(model, tokenizer, prompts, 2, 2),
        lambda: list(models.residual_streams(model, tokenizer, prompts, [1], 2)),
        lambda: engine.PatchedPrompts(model, tokenizer, prompts),
        lambda: engine.PatchedPrompts(model, tokenizer, prompts[:1], [(5, 682)]),
    ):
        with pytest.raises(runs.UserError, match=line):
            ask()


def test_a_gguf_file_says_what_comes_first(sound, tmp_path, monkeypatch):
    """Some versions of transformers rebuild such a tokenizer without it, and then read other words too."""
    plain = models.load_tokenizer(checkpoints.find_model(str(sound)))
    folder = checkpoints.find_model(str(write_gguf(tmp_path / "model.gguf", sound, "F16", first=True)))
    assert models.load_tokenizer(folder)("five")["input_ids"] == [0, *plain("five")["input_ids"]]
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda *_, **__: plain)
    with pytest.raises(runs.UserError, match="texts begin with a token of their own there, which transformers 5"):
        models.load_tokenizer(folder)
    other = checkpoints.find_model(str(write_gguf(tmp_path / "other.gguf", sound, "F16")))
    assert models.load_tokenizer(other)("")["input_ids"] == []


def test_any_token_serves_as_a_pad(copy):
    configured(copy, pad_token=None, eos_token=None, unk_token=None)
    changed(copy, lambda content: content.update(added_tokens=[]))
    tokenizer = models.load_tokenizer(checkpoints.find_model(str(copy)))
    assert tokenizer.pad_token_id is not None
    assert tokenizer(["five apples", "five"], return_tensors="pt", padding=True)["attention_mask"][1, 0] == 0
