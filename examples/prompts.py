"""The prompts of tasks, without an answer: messages, sampling, and who can do it."""

from qwick import Qwen, tasks
from qwick.family import FAMILIES

with Qwen.load(ctx=512) as qwen:
    for task in (tasks.math("What is 7 * 8?"), tasks.translate("Good morning", "German")):
        (prompt,) = task.prompts(qwen)
        print(task.name, prompt.keywords)
        print(qwen.render(prompt.messages))

    fill = tasks.fill("def mean(values):\n    return ", "\n")
    (prompt,) = fill.prompts(qwen)
    print(qwen.tokenizer.decode(prompt.raw))  # the marks that this tokenizer has
    print("can fill in:", ", ".join(fill.families))
    print("qwen2.5 cannot: it", fill.suits(FAMILIES["qwen2.5"]))
