"""umT5's tokenizer out of the sentencepiece model that ComfyUI's text encoders carry."""

from pathlib import Path

from google.protobuf.message import DecodeError
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SpmConverter, import_protobuf

from infinitetalk.errors import ModelMissing


def tokenizer_from_spiece(file: Path, model: bytes) -> PreTrainedTokenizerBase:
    """A tokenizer that splits as sentencepiece does and ends each text with the model's end of text.

    Args:
        file: the file that the model is from, for errors.
        model: sentencepiece's, serialised.

    Raises:
        ModelMissing: the bytes are no sentencepiece model of the unigram kind.
    """
    proto = import_protobuf().ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError as error:
        raise ModelMissing(f"{file}: the tokenizer in it is no sentencepiece model; fetch the file again.") from error
    settings = proto.trainer_spec
    if settings.model_type != settings.UNIGRAM or not proto.pieces:
        raise ModelMissing(f"{file}: the tokenizer in it is not umT5's, which is a unigram model.")
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = SpmConverter.build_tokenizer_from_spm_proto(proto, pieces)
    end, padding, unknown = (pieces[index][0] for index in (settings.eos_id, settings.pad_id, settings.unk_id))
    tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, settings.eos_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=end, pad_token=padding, unk_token=unknown, padding_side="right"
    )
