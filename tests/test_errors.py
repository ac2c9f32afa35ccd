"""Messages for users: one line that a terminal can show, whatever they quote."""

from step1x_jax.errors import UserError


def test_a_short_message_stays_as_it_is():
    assert (
        str(UserError("größe [2, 3] ist “falsch”; 变成 x.")) == "größe [2, 3] ist “falsch”; 变成 x."
    )


def test_a_long_name_is_cut_and_the_advice_is_kept():
    message = str(UserError(f"tensor {'x' * 1_000_000} is unknown; give the right file."))
    assert len(message) < 1500
    assert message.startswith("tensor xxx")
    assert message.endswith("x is unknown; give the right file.")


def test_what_a_terminal_would_obey_is_escaped():
    assert str(UserError("a\x1b[2Jb\nc \ud83c d")) == "a\\x1b[2Jb c \\ud83c d"
