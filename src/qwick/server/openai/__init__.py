"""The OpenAI dialect: bodies as the official client sends them, turned into `Ask` and back.

fields.py       every field of the official schema: honoured, inert with its reason, refused
bodies.py       the requests, strictly typed
replies.py      the answers, as the OpenAPI document describes them
chat.py         /v1/chat/completions
completions.py  /v1/completions
tokens.py       /tokenize and /detokenize
"""
