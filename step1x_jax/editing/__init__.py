"""From a picture and an instruction to the edited picture."""
