"""Text to token ids and back: exact, incremental, and closed against control tokens in user text.

    tokenizer.py   a checkpoint's byte-level BPE: encode, decode, bytes of an id; `Detokenizer`
    template.py    the chat template: real Jinja2, sandboxed, equal to the reference renderer
    published.py   the family's templates, for checkpoints that bring none
    messages.py    the shape of a conversation: checked, made plain for templates
    chat.py        a conversation rendered and encoded; control tokens in caller text stay text
    stops.py       stop strings over streamed text, with hold-back

Nothing here knows of tensors, sampling or how an answer is delivered. Importing the package is
cheap: tokenizers and jinja2 are imported when first used.
"""
