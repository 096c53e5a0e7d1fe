#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""DLPack with PyTorch: one memory on both sides, in both directions, released by whoever made it; what does not fit is refused.

    tests/interop/dlpack_tensors.py PATH/TO/esft

Compiles support/dlpack_trade.cpp with the compiler in CXX (g++).
"""
import ctypes
import os
import pathlib
import subprocess
import sys
import tempfile

here = pathlib.Path(__file__).resolve().parent
sys.path[0] = str(here / "support")  # not this folder: tokenizers.py has the name of a package

import small_models  # noqa: E402
import torch  # noqa: E402
from torch.utils import dlpack  # noqa: E402

new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
NAME, USED = b"dltensor", b"used_dltensor"


def take(library, tensor):
    """Gives a tensor of torch away; the reason when it is refused."""
    capsule = dlpack.to_dlpack(tensor)
    reason = ctypes.create_string_buffer(400)
    refused = library.take(ctypes.c_void_p(pointer_of(capsule, NAME)), reason, 400)
    if not refused:
        rename(capsule, USED)  # ours now: the capsule must not release it
    return reason.value.decode()


def main(_tool):
    report = small_models.Report()
    print(f"torch {torch.__version__}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "trade.so"
        subprocess.run([os.environ.get("CXX", "g++"), "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{here.parents[1] / 'include'}",
                        str(here / "support" / "dlpack_trade.cpp"), "-o", str(path)], check=True)
        library = ctypes.CDLL(str(path))
        library.give.restype = ctypes.c_void_p
        memory = ctypes.c_void_p()
        theirs = dlpack.from_dlpack(new_capsule(library.give(ctypes.byref(memory)), NAME, None))
        report.expect("ours in torch: same numbers", torch.equal(theirs, torch.arange(6.0).reshape(2, 3)))
        report.expect("ours in torch: same memory", theirs.data_ptr() == memory.value)
        theirs[0, 0] = 7
        report.expect("ours in torch: written there, seen here", ctypes.cast(memory, ctypes.POINTER(ctypes.c_float))[0] == 7)
        del theirs

        tensor = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
        report.expect("torch's taken", take(library, tensor) == "")
        report.expect("torch's written by us", torch.equal(tensor, 2 * torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)))
        wrong_ones = [("another element type", tensor.float(), "code 2, 32 bits"), ("another rank", tensor.flatten(), "1 dimensions"),
                      ("a transposed tensor", torch.zeros(3, 2, dtype=torch.bfloat16).T, "stride")]
        for what, wrong, word in wrong_ones:
            report.expect(f"{what} is refused", word in take(library, wrong))
    report.end()


if __name__ == "__main__":
    main(*sys.argv[1:])
