"""Writes import/*.tar for tests/test_import.c with Python's own tarfile and numpy. Run it here.

Sample i: a latent [2, 1 + i, 4, 6] and a text [i, 3] whose element e is i + e / 8; npy in even
samples, safetensors in odd ones; one name is long. pax.tar and gnu.tar hold the same.
"""

import io
import json
import struct
import tarfile

import numpy

DTYPES = {"F16": numpy.float16, "F32": numpy.float32}


def npy(array):
    out = io.BytesIO()
    numpy.save(out, array)
    return out.getvalue()


def safetensors(tensors):
    header, data = {}, b""
    for name, dtype, array in tensors:
        blob = array.astype(DTYPES[dtype]).tobytes()
        ends = [len(data), len(data) + len(blob)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": ends}
        data += blob
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def members(i):
    shape = (2, 1 + i, 4, 6)
    latent = (i + numpy.arange(numpy.prod(shape)) / 8).reshape(shape).astype(numpy.float32)
    text = (i + numpy.arange(3 * i) / 8).reshape(i, 3).astype(numpy.float32)
    key = "train/%04d" % i if i != 2 else "train/" + "long-" * 40 + "0002"
    if i % 2 == 0:
        yield key + ".latent.npy", npy(latent.astype(numpy.float16)[None])
        yield key + ".text.npy", npy(text)
    else:
        mask = numpy.ones(3, numpy.float32)
        tensors = [("latents_%dx4x6" % (1 + i), "F16", latent), ("t5", "F32", text)]
        yield key + ".safetensors", safetensors(tensors + [("t5_mask", "F32", mask)])
    facts = {"fps": 8 * i, "width": 48, "height": 32, "num_frames": 4 * i + 1, "motion": i / 4}
    if i == 1:
        facts["caption"] = "from the json"
    yield key + ".json", json.dumps(facts).encode()
    yield key + ".txt", ("caption %d\n" % i).encode()
    yield key + ".jpg", b"a picture"


for name, layout in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
    with tarfile.open("import/%s.tar" % name, "w", format=layout) as tar:
        folder = tarfile.TarInfo("train")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for i in range(4):
            for path, data in members(i):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                info.mtime = 1.5 if name == "pax" else 1
                tar.addfile(info, io.BytesIO(data))
