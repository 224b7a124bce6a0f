"""The training network and the runtime are two writings of one mathematics: their logits must agree."""

from pathlib import Path

import pytest
import torch

from nano.bpe import PATTERN, SPECIAL_TOKENS, VOCAB_ROWS, train_tokenizer
from nano.corpus import diagnose_example
from nano.encode import Encoder
from nano.export import SHARD_BYTES, export
from nano.network import Network, Shape
from nano.optimizer import orthogonalise
from nano.train import Batch, corpus_texts, losses, pack
from nano.world import load_world
from runtime import EngineConfig, Message, ModelConfig, Tokenizer
from runtime.kv_cache import KVCache
from runtime.model import DecoderModel
from runtime.sequence import Batch as RuntimeBatch
from runtime.sequence import Span


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(1)
    network = Network(Shape())
    for p in network.parameters():
        p.data = p.data.to(torch.bfloat16).float()
    for moe in network.experts():
        moe.expert_bias.uniform_(-0.1, 0.1)
    return network.eval()


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nano")
    train_tokenizer(corpus_texts(load_world(), 60)).save(str(place / "tokenizer.json"))
    export(network, place / "tokenizer.json", place / "checkpoint", {"steps": 0, "tokens": 0, "minutes": 0})
    return place / "checkpoint"


def _runtime_logits(folder: Path, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [T, V] of the model and of its MTP layer, in fp32."""
    config = ModelConfig.from_directory(folder)
    model = DecoderModel.load(folder, config, EngineConfig(dtype="float32"))
    blocks = -(-len(ids) // 64)
    cache = KVCache(model.cache_layers, blocks, 64, config.num_key_value_heads, config.head_dim)
    place = torch.arange(len(ids))
    batch = RuntimeBatch(torch.tensor(ids), place, place, (Span(0, 0, len(ids), 0, tuple(range(blocks))),), place)
    hidden = model.forward(batch, cache)
    nexts = torch.tensor([*ids[1:], ids[-1]])
    return model.logits(hidden), model.logits(model.mtp_forward(hidden, nexts, batch, cache))


@pytest.mark.parametrize("prefix", [1, 37])
def test_exported_checkpoint_gives_the_networks_logits(network: Network, folder: Path, prefix: int) -> None:
    ids = torch.randint(0, 3800, (200,), generator=torch.Generator().manual_seed(3)).tolist()
    head, rows = torch.tensor([ids[:prefix]]), torch.tensor([ids[prefix:]])
    real = torch.ones_like(rows, dtype=torch.bool)
    with torch.no_grad():
        hidden = network(head, rows, real)
        main = network.lm_head(hidden[1])[0]
        draft = network.lm_head(network.draft(head, rows, real, hidden))[0]
    runtime, runtime_draft = _runtime_logits(folder, ids)
    torch.testing.assert_close(runtime[prefix:], main, atol=2e-3, rtol=0)
    torch.testing.assert_close(runtime_draft[prefix:-1], draft[:-1], atol=2e-3, rtol=0)


def test_padding_does_not_change_the_loss(network: Network) -> None:
    ids = torch.randint(0, 3800, (1, 40), generator=torch.Generator().manual_seed(5))
    weights, real = torch.ones(1, 30), torch.ones(1, 30, dtype=torch.bool)
    plain = Batch("x", ids[:, :10], ids[:, 10:], weights, real)
    pad = torch.nn.functional.pad
    padded = Batch("x", plain.prefix, pad(plain.rows, (0, 7)), pad(weights, (0, 7)), pad(real, (0, 7)))
    with torch.no_grad():
        assert losses(network, plain, True)[0].item() == pytest.approx(
            losses(network, padded, True)[0].item(), abs=1e-5
        )


def test_shards_are_small_and_the_checkpoint_is_whole(folder: Path) -> None:
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert max(sizes) <= 14_000_000
    assert SHARD_BYTES < 14_000_000
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 24_000_000
    assert ModelConfig.from_directory(folder).num_nextn_predict_layers == 1


def test_shape_is_in_the_familys_proportions() -> None:
    s = Shape()
    assert s.num_attention_heads * s.head_dim == s.hidden_size
    assert all(
        width % 128 == 0
        for width in (
            s.hidden_size,
            s.intermediate_size,
            s.moe_intermediate_size,
            s.num_key_value_heads * s.head_dim,
        )
    )
    assert (s.n_group, s.topk_group) == (8, 4)
    assert s.num_experts % s.n_group == 0


def test_special_tokens_stand_in_the_familys_order() -> None:
    assert len(SPECIAL_TOKENS) == 262
    assert SPECIAL_TOKENS[:2] == ("<|startoftext|>", "<|endoftext|>")
    assert SPECIAL_TOKENS[4] == "<|role_end|>"
    assert SPECIAL_TOKENS[-2:] == ("<role>", "</role>")
    assert Shape().vocab_size == VOCAB_ROWS
    assert r"\p{N}|" in PATTERN


def test_training_text_is_tokenised_as_the_runtime_does(folder: Path) -> None:
    from tokenizers import Tokenizer as Raw

    encoder, tokenizer = (
        Encoder(Raw.from_file(str(folder / "tokenizer.json"))),
        Tokenizer.from_directory(folder),
    )
    for zh in (False, True):
        example = diagnose_example(load_world(), 11, zh)
        sent = tokenizer.render([Message("system", example.system), Message("user", example.user)])
        assert encoder.prompt(example) == list(sent)
        whole = encoder.diagnosis(example, 1.0)
        assert len(whole.ids) == len(whole.weights)
        assert all(w == 0 for w in whole.weights[: len(sent)])


def test_packing_takes_the_common_beginning_once() -> None:
    from tokenizers import Tokenizer as Raw

    tokenizer: Raw = train_tokenizer(corpus_texts(load_world(), 20))
    encoder, world = Encoder(tokenizer), load_world()
    encoded = [encoder.reasoning(diagnose_example(world, s, False), 1.0) for s in range(3)]
    batch = pack("reasoning", encoded)
    for row, real, e in zip(batch.rows, batch.real, encoded, strict=True):
        assert batch.prefix[0].tolist() + row[real].tolist() == e.ids
    assert batch.prefix.shape[1] > 50


def test_orthogonalised_matrices_have_singular_values_near_one() -> None:
    matrix = torch.randn(3, 64, 128, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert values.min() > 0.5
    assert values.max() < 1.3
