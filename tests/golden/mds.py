"""Writes mds/expected.txt: what the samples of mds/raw and mds/zstd hold, for tests/test_mds.c.

The shards were written by MosaicML's own MDSWriter; mds/expected.json has their values with SHA-256
of the arrays. This script reads the raw shard, checks it against those, and writes one line per
sample: id, media type, width, height, frames, fps, latent shape, CRC-32C of the latent's elements,
text shape, CRC-32C of the text's elements, CRC-32C of the caption. Run it in this folder.
"""

import hashlib
import json
import struct


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def columns_of(raw, shard, i):
    start, end = struct.unpack_from("<II", raw, 4 + 4 * i)
    sizes = []
    for size in shard["column_sizes"]:
        if size is None:
            size = struct.unpack_from("<I", raw, start)[0]
            start += 4
        sizes.append(size)
    values = {}
    for name, size in zip(shard["column_names"], sizes):
        values[name] = raw[start : start + size]
        start += size
    assert start == end
    return values


def array(value):
    """An ndarray:uint16 value: shape and bytes of the elements."""
    dims, width = value[0] >> 2, 1 << (value[0] & 3)
    shape = [int.from_bytes(value[1 + width * d :][:width], "little") for d in range(dims)]
    return shape, value[1 + width * dims :]


shard = json.load(open("mds/raw/index.json"))["shards"][0]
raw = open("mds/raw/" + shard["raw_data"]["basename"], "rb").read()
with open("mds/expected.txt", "w") as out:
    for i, want in enumerate(json.load(open("mds/expected.json"))):
        got = columns_of(raw, shard, i)
        latent_shape, latent = array(got["vae_latent"])
        text_shape, text = array(got["text_embedding"])
        assert latent_shape == want["vae_latent_shape"]
        assert text_shape == want["text_embedding_shape"]
        assert hashlib.sha256(latent).hexdigest() == want["vae_latent_sha256"]
        assert hashlib.sha256(text).hexdigest() == want["text_embedding_sha256"]
        assert got["caption"].decode() == want["caption"]
        fields = [want["id"], want["media_type"], want["width"], want["height"], want["num_frames"]]
        fields += ["%g" % want["fps"], *latent_shape, "%08x" % crc32c(latent)]
        fields += [*text_shape, "%08x" % crc32c(text), "%08x" % crc32c(got["caption"])]
        out.write(" ".join(map(str, fields)) + "\n")
