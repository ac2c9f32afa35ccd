"""Stages that ship: embedded edits, template instructions, filters."""
