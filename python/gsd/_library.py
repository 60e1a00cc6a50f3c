"""libgsd.so, loaded when it is first needed.

cffi in its ABI mode: it reads gsd.h itself, so one wheel without compiled code of its own serves every Python 3, where
nanobind would need one for each version.
"""
import functools
import os
import re

FOLDER = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = os.path.join(FOLDER, "lib", "gsd")


def own_loader():
    """The loader that came with libllama, where that needs a newer C library than systems have; else None."""
    names = os.listdir(LIBRARIES) if os.path.isdir(LIBRARIES) else []
    return next((os.path.join(LIBRARIES, n) for n in sorted(names) if n.startswith("ld-linux")), None)


def _declarations():
    with open(os.path.join(FOLDER, "gsd.h"), encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"#ifdef __cplusplus.*?#endif", "", text, flags=re.S)
    abi = int(re.search(r"#define GSD_ABI (\d+)", text).group(1))
    return abi, re.sub(r"^#.*$", "", text, flags=re.M)


@functools.lru_cache(maxsize=None)
def load():
    """(ffi, functions, version of the interface). Raises ImportError with a sentence that says what to do."""
    try:
        import cffi
    except ImportError:
        raise ImportError("gsd needs cffi: install it with pip, or Debian's python3-cffi.") from None
    abi, declarations = _declarations()
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    try:
        return ffi, ffi.dlopen(os.path.join(FOLDER, "lib", "libgsd.so")), abi
    except OSError as e:
        if own_loader() is None:
            raise ImportError("libgsd.so cannot be loaded: %s" % e) from None
        raise ImportError(
            "The libllama that came with gsd needs a newer C library than this Python was started with: start it as "
            "'gsd-python SCRIPT', or 'python3 -m gsd SCRIPT', instead of 'python3 SCRIPT'."
        ) from None
