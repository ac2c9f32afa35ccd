"""Inputs of the connector: pictures, prompts and the language model that reads both."""
