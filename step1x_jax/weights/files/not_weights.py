"""What a file that is no .safetensors file seems to be, by its first bytes."""

_SIGNS = (  # first bytes, what it is, what to do
    (b"GGUF", "a GGUF file", "give the weights in .safetensors; GGUF cannot be read"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, a text in the place of the real file",
        "download the file itself (git lfs pull)",
    ),
    (b"PK\3\4", "a zip archive, as PyTorch writes pickles", "give the weights in .safetensors"),
    (b"\x80\2", "a pickle", "give the weights in .safetensors"),
    (b"\x80\3", "a pickle", "give the weights in .safetensors"),
    (b"\x80\4", "a pickle", "give the weights in .safetensors"),
    (b"\x80\5", "a pickle", "give the weights in .safetensors"),
    (b"\x89HDF", "an HDF5 file", "give the weights in .safetensors"),
    (b"\x93NUMPY", "a .npy file of NumPy", "give the weights in .safetensors"),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"\xfd7zXZ", "an xz archive", "unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first"),
    (b"\x89PNG", "a PNG picture", "give the weights' file"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the weights' file"),
)
_PAGE = "a web page", "download the file itself: the address gave a page, of an error or a login"
_TEXT = "a text file", "give the weights' file"
_JSON = "a JSON text", "give the weights' file, or download it: the address may have given an error"
_EMPTY = "empty", "download it again"
_ZEROS = "only zeros at its start, as of a download that was broken off", "download it again"
LOOKED_AT = 512  # bytes


def what_it_is(start: bytes) -> tuple[str, str] | None:
    """What the file is and what to do about it; None if its first bytes do not say.

    Args:
      start: its first LOOKED_AT bytes, or all.
    """
    if not start:
        return _EMPTY
    for sign, *words in _SIGNS:
        if start.startswith(sign):
            return words[0], words[1]
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body", b"<!--")):
        return _PAGE
    if len(start) > 8 and not any(start):
        return _ZEROS
    printable = all(byte >= 32 or byte in b"\t\r\n" for byte in start)
    if printable and text.startswith((b"{", b"[")):
        return _JSON
    return _TEXT if printable and len(start) >= 8 and start.isascii() else None
