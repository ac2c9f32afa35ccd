"""Identifies files that are not .safetensors by their first bytes."""

_SIGNATURES = (  # first bytes, what the file is, what to do
    (b"GGUF", "a GGUF file", "give the weights in .safetensors; GGUF cannot be read"),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, a text in place of the real file",
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
    (b"\x89PNG", "a PNG picture", "give the weight file"),
    (b"\xff\xd8\xff", "a JPEG picture", "give the weight file"),
)
_PAGE = "a web page", "download the file itself: the address returned an error page or a login page"
_TEXT = "a text file", "give the weight file"
_JSON = (
    "a JSON text",
    "give the weight file, or download it again: the address may have returned an error",
)
_EMPTY = "empty", "download it again"
_ZEROS = "all zeros at its start, as after an interrupted download", "download it again"
SIGNATURE_BYTES = 512  # bytes


def identify_file(start: bytes) -> tuple[str, str] | None:
    """Return what a file is and what to do about it; None if its first bytes do not tell.

    Args:
      start: its first SIGNATURE_BYTES bytes, or all of a shorter file.
    """
    if not start:
        return _EMPTY
    for signature, *words in _SIGNATURES:
        if start.startswith(signature):
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
