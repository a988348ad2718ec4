"""A document in chunks: a summary made of the parts', and an answer that says where it is from."""

from qwick import Qwen, tasks

DOCUMENT = """\
The lighthouse of Port Ellis was built in 1874 by the engineer Maria Keller.

In 1911 the lamp was changed to electricity. The new lamp came from Hamburg.

The keeper in 1950 was Tom Baird. He kept bees on the roof.
"""

with Qwen.load(ctx=2048) as qwen:
    for chunk in tasks.split_document(DOCUMENT, qwen.tokenizer, size=32, overlap=0):
        print(f"lines {chunk.first_line} to {chunk.last_line}: {chunk.text[:40]!r}")

    answer = tasks.ask(DOCUMENT, "Who was the keeper in 1950?", tokens=64).run(qwen)
    for statement in answer.value.statements:
        lines = ", ".join(str(source.first_line) for source in statement.sources)
        print(f"{statement.text} [line {lines}]")

    summary = tasks.summarise(DOCUMENT, tokens=32).run(qwen)
    print("summary:", summary.value.text, summary.troubles)
