"""The published prompt: from an instruction to the token ids that the released weights expect.

The language model sees one user turn of Qwen's chat template: prefix, picture, instruction. It is a
fixed form, so it is written out here instead of rendering the template beside each copy
of the model. From <|vision_end|> on, quoted text is cut into single characters before it is
tokenised, so that lettering is spelled out to the model. The release takes an apostrophe for a
quote too and so spells out all that follows it; its weights expect that ("published" quoting). With
"words", an apostrophe inside a word is a letter, and the chat's end is never spelled out.

Two quirks of the release belong to what its weights expect. Its attention mask is `ids > 0`, and
id 0 is "!": no token attends to an exclamation mark that is a token of its own. So it is with
"published" quoting; with "words" they are tokens like others. And the label "Picture 1: " before
the picture, which the release's code asks the chat template for, was dropped by the version of
transformers that it ran with: a setting, as models have been trained with and without it.
"""

import re

from step1x_jax.conditioning.tokenizer import Tokenize
from step1x_jax.errors import UserError

QUOTINGS = ("published", "words")

PREFIX = (
    'Given a user prompt, generate an "Enhanced prompt" that provides detailed visual descriptions'
    " suitable for image generation. Evaluate the level of detail in the user prompt:\n"
    "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures,"
    " and spatial relationships to create vivid and concrete scenes.\n"
    "- If the prompt is already detailed, refine and enhance the existing details slightly without"
    " overcomplicating.\n\n"
    "Here are examples of how to transform or refine prompts:\n"
    "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round"
    " shape, sleeping peacefully on a warm sunny windowsill, surrounded by pots of blooming red"
    " flowers.\n"
    "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring"
    " glowing street lamps, a diverse crowd of people in colorful clothing, and a double-decker bus"
    " passing by towering glass skyscrapers.\n\n"
    "Please generate only the enhanced description for the prompt below and avoid including any"
    " additional commentary or evaluations:\n"
    "User Prompt:"
)
CHAT_START = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n" + PREFIX
)
LABEL = "Picture 1: "
VISION_START = "<|vision_start|>"
CHAT_BEFORE_IMAGE = CHAT_START + LABEL + VISION_START  # with the label
CHAT_AFTER_INSTRUCTION = "<|im_end|>\n<|im_start|>assistant\n"
IMAGE_TOKEN, VIDEO_TOKEN = "<|image_pad|>", "<|video_pad|>"
QUOTES = str.maketrans(dict.fromkeys("“”'", '"'))


class Prompt:
    """Makes token ids with one vocabulary.

    Attributes:
      image_id: the id of each token of the picture.
      unseen_id: the id of tokens that no token attends to; None if there are none such.
      dropped: how many leading positions of the hidden states the release throws away: those before
        the colon that ends the prefix, 217 with Qwen's own vocabulary.
    """

    def __init__(self, tokenize: Tokenize, quoting: str = "published", picture_label: bool = False):
        """Take a tokenizer and read its special tokens.

        Args:
          tokenize: text to ids.
          quoting: one of QUOTINGS.
          picture_label: whether LABEL is put before the picture.

        Raises:
          UserError: the vocabulary lacks Qwen's special tokens.
        """
        self._tokenize = tokenize
        self._quoting = quoting
        before = CHAT_BEFORE_IMAGE if picture_label else CHAT_START + VISION_START
        self._before_image = tokenize(before)
        self.unseen_id = 0 if quoting == "published" else None
        self.dropped = len(tokenize(CHAT_START.removesuffix(":")))
        self.image_id, self._video_id = map(self._special, (IMAGE_TOKEN, VIDEO_TOKEN))
        self._opening, self._closing = tokenize("“"), tokenize("”")

    def _special(self, token: str) -> int:
        ids = self._tokenize(token)
        if len(ids) != 1:
            raise UserError(
                f"the tokenizer does not know the special token {token}; use that of Qwen2.5-VL."
            )
        return ids[0]

    def ids(self, instruction: str, image_tokens: int) -> list[int]:
        """The whole prompt.

        Args:
          instruction: any text; an empty one is legal.
          image_tokens: how many tokens the picture has in the language model.

        Returns:
          Token ids.

        Raises:
          UserError: see `ids_from_vision_end`.
        """
        return [
            *self._before_image,
            *[self.image_id] * image_tokens,
            *self.ids_from_vision_end(instruction),
        ]

    def ids_from_vision_end(self, instruction: str) -> list[int]:
        """Return the part after the picture, quoted text in single characters.

        Other special tokens in the instruction are read as such, as in the release.

        Raises:
          UserError: it is not valid Unicode, or has a placeholder that a picture would fill.
        """
        check_instruction(instruction)
        if self._quoting == "published":
            pieces = published_pieces("<|vision_end|>" + instruction + CHAT_AFTER_INSTRUCTION)
        else:
            pieces = ["<|vision_end|>", *word_pieces(instruction), CHAT_AFTER_INSTRUCTION]
        ids = [i for piece in pieces for i in self._piece_ids(piece)]
        if self.image_id in ids or self._video_id in ids:
            raise UserError(
                f"the instruction {instruction!r} has a placeholder of pictures ({IMAGE_TOKEN} or"
                f" {VIDEO_TOKEN}); write it without."
            )
        return ids

    def _piece_ids(self, piece: str) -> list[int]:
        ids = self._tokenize(piece)
        opening, closing = self._opening, self._closing
        if ids[: len(opening)] == opening and ids[-len(closing) :] == closing:
            return ids[len(opening) : -len(closing)]
        return ids  # a quote merged with the character, as with a space: it stays


def check_instruction(instruction: str) -> None:
    """Raise UserError for text that cannot be tokenised because half a character is in it."""
    try:
        instruction.encode()
    except UnicodeEncodeError as e:
        raise UserError(f"the instruction {instruction!r} is not valid Unicode text.") from e


def published_pieces(text: str) -> list[str]:
    """Cut a text the way the release does before tokenising piece by piece.

    Curly double quotes and apostrophes become `"`, and each `"` toggles quoting. Outside, the text
    up to and including the next quote is one piece; inside, every character is one, in curly
    quotes.

    Args:
      text: the part of the chat from <|vision_end|> on. (The release runs over the whole chat and
        exempts the two quotes of the prefix by their place.)

    Returns:
      The pieces, to be tokenised each by itself.
    """
    pieces = []
    quoted = False
    outside = ""
    for char in text.translate(QUOTES):
        if char == '"':
            outside += char
            if not quoted:
                pieces.append(outside)
                outside = ""
            quoted = not quoted
        elif quoted:
            pieces.append(f"“{char}”")
        else:
            outside += char
    return [*pieces, outside] if outside else pieces


def word_pieces(instruction: str) -> list[str]:
    """Cut an instruction as `published_pieces` does, but for apostrophes inside words.

    They stay what they are: "the girl's dress" is one piece, 'say "it's"' spells out i, t, ', s.
    """
    letter = "\ufffc"  # no text holds it: the object replacement character
    text = re.sub(r"(?<=\w)'(?=\w)", letter, instruction)
    return [piece.replace(letter, "'") for piece in published_pieces(text)]
