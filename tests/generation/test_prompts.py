import numpy as np
import pytest
import torch

from pyllm.generation.prompts import encode_prompt, encode_prompts
from tests.generation.stand_in import BOS, ByteTokenizer

CHAT = [{"role": "user", "content": "hi"}]
CHAT_IDS = list(b"user:hi\nassistant:")


@pytest.mark.parametrize(
    ("prompts", "wanted"),
    [
        ("hi", [[BOS, *b"hi"]]),
        (["hi", "you"], [[BOS, *b"hi"], [BOS, *b"you"]]),
        ([5, 6], [[5, 6]]),
        ([[5, 6], (7,)], [[5, 6], [7]]),
        (torch.tensor([5, 6]), [[5, 6]]),
        (torch.tensor([[5, 6], [7, 8]]), [[5, 6], [7, 8]]),
        ([torch.tensor([5]), [np.int64(6)]], [[5], [6]]),
        (CHAT, [CHAT_IDS]),
        ([CHAT, "hi", [5]], [CHAT_IDS, [BOS, *b"hi"], [5]]),
        ("", [[BOS]]),
    ],
)
def test_what_counts_as_prompts(prompts, wanted):
    assert encode_prompts(prompts, ByteTokenizer(), BOS) == wanted


def test_bos_is_never_doubled():
    class Spelled(ByteTokenizer):
        def encode(self, text, *, add_special_tokens=False, allowed_special=()):
            assert allowed_special == "all"
            return [BOS, BOS, 5]

    assert encode_prompt("<bos>x", Spelled(), BOS) == [BOS, 5]


@pytest.mark.parametrize(
    ("prompts", "error", "message"),
    [
        ([], ValueError, "prompts is empty"),
        (None, TypeError, "prompts must be"),
        (7, TypeError, "prompts must be"),
        (["a", 3], TypeError, "prompt 1"),
        ([1, 2.5], TypeError, "prompt 0"),
        ([["a"]], TypeError, "prompt 0"),
        ([{"role": "user"}], ValueError, "prompt 0.*content"),
        ([{"content": "x"}], ValueError, "prompt 0.*role"),
        (torch.tensor([0.5]), TypeError, "prompt 0"),
    ],
)
def test_what_does_not(prompts, error, message):
    with pytest.raises(error, match=message):
        encode_prompts(prompts, ByteTokenizer(), BOS)


def test_text_needs_a_tokenizer_and_a_start():
    with pytest.raises(ValueError, match="no tokenizer"):
        encode_prompts("hi", None, BOS)
    with pytest.raises(ValueError, match="no BOS"):
        encode_prompts("", ByteTokenizer(), None)
