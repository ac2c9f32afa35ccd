"""A flag whose value is a list of whole numbers, such as --pixels=512,1024."""

from collections.abc import Sequence

from absl import flags


class _NumberListParser(flags.ArgumentParser):
    """Parses whole numbers, separated by commas, each within bounds."""

    def __init__(self, lower: int, upper: int):
        self._number = flags.IntegerParser(lower, upper)
        self.syntactic_help = f"whole numbers in [{lower}, {upper}], separated by commas"

    def parse(self, argument: str | Sequence[int]) -> list[int]:
        """The numbers; of a default, which is a list already, itself."""
        parts = argument.split(",") if isinstance(argument, str) else argument
        return [self._number.parse(part) for part in parts]

    def flag_type(self) -> str:
        """Return the name of the type, for --help."""
        return "list of int"


def define_number_list(
    name: str, default: Sequence[int], text: str, *, lower: int = 1, upper: int = 1 << 20
) -> flags.FlagHolder:
    """Define the flag.

    Args:
      name: of the flag.
      default: its value if it is not given.
      text: for --help.
      lower: least number.
      upper: greatest number.
    """
    parser, serializer = _NumberListParser(lower, upper), flags.CsvListSerializer(",")
    return flags.DEFINE(parser, name, list(default), text, serializer=serializer)
