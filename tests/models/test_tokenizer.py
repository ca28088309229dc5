"""Prompts in umT5's tokens: what its sentencepiece model itself gives."""

from pathlib import Path

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizerBase

from infinitetalk.errors import ModelMissing
from infinitetalk.models.encoder_loading import load_tokenizer
from infinitetalk.models.text_encoder import count_tokens
from tests.support.umt5_tokenizer import SPECIAL, TEXTS, write_umt5_tokenizer

PAD, END, BEGIN, UNKNOWN = range(len(SPECIAL))
UNKNOWN_TO_IT = ("他在说话", "A person 話 talking 🦊", "🦊", "Ж", "quick ☃☃ fox", "two   spaces\tand 語\n", "Ⅳ №①")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SentencePieceProcessor, PreTrainedTokenizerBase]:
    folder = tmp_path_factory.mktemp("umt5-xxl")
    processor = write_umt5_tokenizer(folder)
    assert [processor.id_to_piece(index) for index in range(len(SPECIAL))] == list(SPECIAL)
    return folder, processor, load_tokenizer(folder)


@pytest.mark.parametrize("text", [*TEXTS, *UNKNOWN_TO_IT, ""])
def test_tokens_are_the_sentencepiece_models_own(text: str, made: tuple) -> None:
    _, processor, tokenizer = made
    assert tokenizer(text).input_ids == [*processor.encode(text), END]


@pytest.mark.parametrize("text", UNKNOWN_TO_IT[:5])
def test_an_unknown_character_is_the_unknown_token(text: str, made: tuple) -> None:
    """Not <s>, which a T5 tokenizer has no use for and umT5 has in the place where T5 has its unknown token."""
    tokens = made[2](text).input_ids
    assert UNKNOWN in tokens
    assert BEGIN not in tokens


def test_prompts_are_padded_cut_and_counted(made: tuple) -> None:
    tokenizer = made[2]
    padded = tokenizer(["A person."], padding="max_length", max_length=20, truncation=True)
    count = sum(padded.attention_mask[0])
    assert padded.input_ids[0][count - 1 :] == [END] + [PAD] * (20 - count)
    assert count == count_tokens(tokenizer, "A person.")
    cut = tokenizer(["A person talking. " * 20], padding="max_length", max_length=20, truncation=True)
    assert len(cut.input_ids[0]) == 20
    assert cut.input_ids[0][-1] == END


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("tokenizer.json", None, r"tokenizer\.json is missing"),
        ("tokenizer.json", "<html>404</html>", "no tokenizer"),
        ("tokenizer_config.json", None, r"tokenizer_config\.json is missing or names no pad_token"),
    ],
)
def test_what_a_tokenizers_folder_lacks_is_named(file: str, content: str | None, problem: str, tmp_path: Path) -> None:
    write_umt5_tokenizer(tmp_path)
    (tmp_path / "special_tokens_map.json").unlink()
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_text(content, "utf-8")
    with pytest.raises(ModelMissing, match=problem):
        load_tokenizer(tmp_path)
