"""Memory and time on devices that are not attached, from ahead-of-time compiled programs."""
