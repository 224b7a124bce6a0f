"""Random weights without a pack are those that the pack would have."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from kernels.formats import Format
from runtime.inventory import EMBEDDING, dense_matrices, plain_tensors
from runtime.measuring.random_pack import RandomModel, write_random_pack
from runtime.measuring.random_store import RandomStore, RandomWeights
from runtime.pack import Pack
from tests.runtime.tiny import tiny_config

MODEL = RandomModel(tiny_config(), Format.parse("w4a8:64"), Format.parse("w8a8:64"))


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Pack:
    directory = tmp_path_factory.mktemp("random") / "pack"
    write_random_pack(MODEL, directory)
    return Pack.open(directory)


def test_experts_are_those_of_the_pack_whoever_reads_them(pack: Pack) -> None:
    geometry = MODEL.geometry
    store, written = RandomStore(geometry), pack.store()
    here = torch.zeros(geometry.blobs, geometry.blob_bytes, dtype=torch.uint8)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda blob: store.read(blob, here[blob].numpy().data), range(geometry.blobs)))
    for layer_position, layer in enumerate(geometry.layers):
        for expert, blob in enumerate(pack.experts(layer).blobs):
            assert torch.equal(here[layer_position * geometry.count + expert], blob)
    assert (store.geometry, store.verified) == (written.geometry, 0)
    hashes = {hashlib.sha256(blob.numpy()).digest() for blob in here}
    assert len(hashes) == geometry.blobs
    store.close()
    written.close()


def test_dense_weights_are_those_of_the_pack_each_time(pack: Pack) -> None:
    weights = RandomWeights(MODEL, threads=3)
    for _ in range(2):
        for plain in plain_tensors(MODEL.config):
            assert torch.equal(weights.tensor(plain.name), pack.tensor(plain.name)), plain.name
        for matrix in dense_matrices(MODEL.config):
            found, wanted = weights.matrix(matrix.name), pack.matrix(matrix.name)
            assert (found.format, found.rows, found.columns) == (wanted.format, wanted.rows, wanted.columns)
            assert torch.equal(found.data, wanted.data), matrix.name
    assert weights.tensor(EMBEDDING).data_ptr() == weights.tensor(EMBEDDING).data_ptr()
    assert (weights.sizes, weights.nbytes, weights.pageable) == (pack.sizes, pack.nbytes, True)
    weights.close()


def test_the_experts_of_a_layer_are_a_pool_like_the_pack_s(pack: Pack) -> None:
    weights, layer = RandomWeights(MODEL), MODEL.geometry.layers[-1]
    drawn, written = weights.experts(layer), pack.experts(layer)
    assert all(torch.equal(a, b) for a, b in zip(drawn.blobs, written.blobs, strict=True))
    with pytest.raises(KeyError):
        weights.experts(0)
    weights.close()


def test_a_matrix_is_no_tensor_and_the_other_way_round() -> None:
    weights = RandomWeights(MODEL)
    with pytest.raises(KeyError, match="matrix"):
        weights.tensor("lm_head")
    with pytest.raises(KeyError, match="plain tensor"):
        weights.matrix(EMBEDDING)
    weights.close()
