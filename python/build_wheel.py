"""Makes the wheel: build_wheel.py TREE OUTPUT_FOLDER. TREE: what `cmake --install --component gsd_library` gave."""
import base64
import glob
import hashlib
import os
import re
import sys
import sysconfig
import zipfile

SCRIPTS = "[console_scripts]\ngsd-python = gsd.__main__:main\n"


def files_of(tree):
    """(name in the wheel, path) of everything."""
    here = os.path.dirname(os.path.abspath(__file__))
    for path in sorted(glob.glob(os.path.join(here, "gsd", "*.py"))):
        yield "gsd/" + os.path.basename(path), path
    (header,) = glob.glob(os.path.join(tree, "include", "gsd.h"))
    yield "gsd/gsd.h", header
    (library,) = glob.glob(os.path.join(tree, "**", "libgsd.so"), recursive=True)
    yield "gsd/lib/libgsd.so", library
    folder = os.path.join(os.path.dirname(library), "gsd")
    for path in sorted(glob.glob(os.path.join(folder, "**"), recursive=True)):
        if os.path.isfile(path):
            yield "gsd/lib/gsd/" + os.path.relpath(path, folder), path
    docs = os.path.join(tree, "share", "doc", "gsd")
    for path in sorted(glob.glob(os.path.join(docs, "**"), recursive=True)):
        if os.path.isfile(path):
            yield "%s.dist-info/licenses/" + os.path.relpath(path, docs), path


def main():
    tree, output = sys.argv[1:]
    (pc,) = glob.glob(os.path.join(tree, "**", "gsd.pc"), recursive=True)
    with open(pc, encoding="utf-8") as file:
        version = re.search(r"^Version: (.*)$", file.read(), re.M).group(1)
    name = "gsd-" + version
    tag = "py3-none-" + re.sub(r"[-.]", "_", sysconfig.get_platform())
    metadata = (
        "Metadata-Version: 2.1\nName: gsd\nVersion: %s\nSummary: Graph-structured speculative decoding of GGUF models\n"
        "License: MIT\nRequires-Python: >=3.8\nRequires-Dist: cffi>=1.14\n" % version
    )
    texts = {
        "METADATA": metadata,
        "WHEEL": "Wheel-Version: 1.0\nGenerator: gsd\nRoot-Is-Purelib: false\nTag: %s\n" % tag,
        "entry_points.txt": SCRIPTS,
    }
    os.makedirs(output, exist_ok=True)
    path = os.path.join(output, "%s-%s.whl" % (name, tag))
    record = []
    with zipfile.ZipFile(path + ".part", "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(entry, data, mode=0o644):
            info = zipfile.ZipInfo(entry, (1980, 1, 1, 0, 0, 0))  # the same wheel from the same files
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100000 | mode) << 16
            wheel.writestr(info, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append("%s,sha256=%s,%d" % (entry, digest, len(data)))

        for entry, source in files_of(tree):
            with open(source, "rb") as file:
                add(entry.replace("%s", name), file.read(), 0o755 if os.access(source, os.X_OK) else 0o644)
        for entry, text in texts.items():
            add("%s.dist-info/%s" % (name, entry), text.encode())
        listing = "%s.dist-info/RECORD" % name
        wheel.writestr(zipfile.ZipInfo(listing, (1980, 1, 1, 0, 0, 0)), "\n".join(record + [listing + ",,"]) + "\n")
    os.replace(path + ".part", path)
    print(path)


if __name__ == "__main__":
    main()
