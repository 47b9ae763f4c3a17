"""Vectors of instructions from a text encoder: a tiny model that is made here and loaded as a real one is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from aloha_kit.core import ConfigError, ContractError
from aloha_kit.data.instructions import Instructions

LEFT, RIGHT = "move left", "move right"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of one layer over six words, in the files of a plain transformers model."""
    pytest.importorskip("sentence_transformers")
    import torch
    from tokenizers import models, pre_tokenizers, Tokenizer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    words = {word: i for i, word in enumerate(("[PAD]", "[UNK]", "move", "left", "right", "fast"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)).save_pretrained(folder)
    return folder


def test_an_encoder_gives_the_mean_of_its_tokens_also_for_what_is_not_kept(encoder: Path) -> None:
    import torch
    from transformers import BertModel

    instructions = Instructions.of([RIGHT, LEFT, LEFT], str(encoder))
    assert (list(instructions.vectors), instructions.width) == ([LEFT, RIGHT], 16)
    model = BertModel.from_pretrained(encoder).eval()
    for text, tokens in {LEFT: [2, 3], RIGHT: [2, 4], "move fast": [2, 5]}.items():
        with torch.inference_mode():
            mean = model(torch.tensor([tokens])).last_hidden_state[0].mean(0).numpy()
        expected = mean / np.sqrt(np.square(mean).mean())
        np.testing.assert_allclose(instructions.vector(text), expected, rtol=1e-4, atol=1e-5)
    assert list(instructions.vectors) == [LEFT, RIGHT]


def test_what_is_kept_needs_no_encoder(encoder: Path) -> None:
    made = Instructions.of([LEFT], str(encoder))
    kept = json.loads(json.dumps({**made.to_json(), "encoder": "gone/away"}))
    back = Instructions.from_json(kept)
    np.testing.assert_array_equal(back.vector(LEFT), made.vector(LEFT))
    with pytest.raises(ConfigError, match=r"^text_encoder gone/away is no model on this machine"):
        back.vector(RIGHT)


def test_a_table_refuses_what_it_does_not_hold() -> None:
    table = Instructions.of([LEFT, RIGHT], "table")
    with pytest.raises(
        ContractError, match=rf"instruction 'move lift'\. Did you mean '{LEFT}'\? Known: {LEFT}, {RIGHT}"
    ):
        table.vector("move lift")
    with pytest.raises(ContractError, match="at least one"):
        Instructions.of([], "table")
    with pytest.raises(ValueError, match="finite"):
        Instructions.from_json({"encoder": "table", "vectors": {LEFT: [1.0, float("nan")]}})
