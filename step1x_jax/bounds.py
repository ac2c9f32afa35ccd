"""Bounds of settings and sizes that come from flags and files, as types for dataclasses' fields.

They keep a wrong number from exhausting the machine before anything else can refuse it; what a
model or a method can really use is narrower, and checked where it is known. `json_files.build` and
`check_fields` apply them.
"""

from typing import Annotated

from msgspec import Meta

Layers = Annotated[int, Meta(ge=1, le=1000)]
Width = Annotated[int, Meta(ge=1, le=1 << 18)]  # of features, heads, vocabularies' embeddings
Tokens = Annotated[int, Meta(ge=1, le=1 << 17)]
Vocabulary = Annotated[int, Meta(ge=1, le=1 << 24)]
TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Pixels = Annotated[int, Meta(ge=1, le=1 << 26)]  # of a picture
Count = Annotated[int, Meta(ge=0, le=1 << 48)]  # of bytes, edits or steps
Positive = Annotated[float, Meta(ge=1e-30, le=1e15)]  # what is not 0 in float32, either
NotNegative = Annotated[float, Meta(ge=0, le=1e15)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
