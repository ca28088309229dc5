"""A small tokenizer laid out like umT5's, made in the ways that the release's own was: a sentencepiece model, and the
tokenizer.json that transformers' converter makes of it."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
from transformers.convert_slow_tokenizer import T5Converter

SPECIAL = ("<pad>", "</s>", "<s>", "<unk>")  # umT5's first four pieces, in this order
TEXTS = (
    "A person talking naturally.",
    "Two people talk to each other at a table, and the second one listens.",
    "Ein Mensch spricht ruhig in die Kamera und lächelt.",
    "The quick brown fox jumps over the lazy dog.",
)


def train_sentencepiece() -> bytes:
    """A unigram model of a few dozen pieces that knows the letters of TEXTS."""
    model = io.BytesIO()
    pad, end, begin, unknown = range(len(SPECIAL))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 20), model_writer=model, model_type="unigram", vocab_size=120,
        hard_vocab_limit=False, pad_id=pad, eos_id=end, bos_id=begin, unk_id=unknown, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def write_umt5_tokenizer(folder: Path) -> sentencepiece.SentencePieceProcessor:
    """The four files of google/umt5-xxl, small. Returns what encodes by the sentencepiece model itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spiece.model").write_bytes(train_sentencepiece())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    source = SimpleNamespace(
        vocab_file=str(folder / "spiece.model"), _extra_ids=0, convert_tokens_to_ids=processor.piece_to_id
    )
    T5Converter(source).converted().save(str(folder / "tokenizer.json"))
    named = dict(zip(("pad_token", "eos_token", "bos_token", "unk_token"), SPECIAL, strict=True))
    config = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "sp_model_kwargs": {}, **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(named), "utf-8")
    return processor
