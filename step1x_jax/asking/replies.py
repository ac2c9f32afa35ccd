"""What a model's reply says, without what it says before."""


def strip_reasoning(text: str) -> str:
    """What follows a model's reasoning: all behind the last </think>.

    Models whose template opens the reasoning in the question close it only. Reasoning that was cut
    off has nothing behind it.
    """
    after = text.rpartition("</think>")[2]  # all of it if there is none
    return after.partition("<think>")[0].strip()
