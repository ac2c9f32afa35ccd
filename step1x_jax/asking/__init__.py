"""Asking models questions: attempts, pace, replies that are kept, pictures as they are sent."""
