"""Instructions by a language model, as in the paper: several rounds, examples, two languages."""
